"""Certificates for tests, made by openssl in a folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def make_certificate(folder: Path, name: str = "server", password: str | None = None) -> Path:
    """A certificate for 127.0.0.1 that signs itself, `NAME.pem`; its key is `NAME.key`."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("a certificate needs openssl")
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 2 -subj /CN=127.0.0.1"
    lock = ["-passout", f"pass:{password}"] if password else ["-nodes"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", f"{folder / name}.key", "-out", f"{folder / name}.pem"]
    subprocess.run([openssl, *made.split(), *lock, *names, *files], check=True, capture_output=True)
    return folder / f"{name}.pem"
