"""Certificates: taken when they fit, and a sentence with the file's name when they do not."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from fakes.certificates import make_certificate
from headrace.core.config import ServerConfig
from headrace.core.errors import ConfigError
from headrace.server.tls import load_certificate


def test_without_a_certificate_there_is_no_tls() -> None:
    assert load_certificate(ServerConfig()) is None


def test_a_certificate_with_its_key_beside_it_or_inside(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    key = certificate.with_suffix(".key")
    context = load_certificate(ServerConfig(ssl_certfile=certificate, ssl_keyfile=key))
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    both = tmp_path / "both.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    assert load_certificate(ServerConfig(ssl_certfile=both)) is not None


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    other = make_certificate(tmp_path, "other").with_suffix(".key")
    locked = make_certificate(tmp_path, "locked", "secret")
    missing, prose = tmp_path / "missing.pem", tmp_path / "prose.pem"
    prose.write_text("words")
    for files, field, words in (
        ((missing, other), "server.ssl_certfile", "No such file"),
        ((certificate, missing), "server.ssl_keyfile", "No such file"),
        ((certificate, tmp_path), "server.ssl_keyfile", "Is a directory"),
        ((certificate, other), "server.ssl_keyfile", "the private key in PEM of the certificate"),
        ((certificate, prose), "server.ssl_keyfile", "the private key in PEM of the certificate"),
        ((certificate, certificate), "server.ssl_keyfile", "the private key in PEM of the cert"),
        ((prose, other), "server.ssl_certfile", "a certificate chain in PEM"),
        ((other, other), "server.ssl_certfile", "a certificate chain in PEM"),
        ((certificate, None), "server.ssl_certfile", r"holds it in server\.ssl_keyfile"),
        ((prose, None), "server.ssl_certfile", "No certificate can be read in it"),
        ((locked, locked.with_suffix(".key")), "server.ssl_keyfile", "without a password"),
    ):
        config = ServerConfig(ssl_certfile=files[0], ssl_keyfile=files[1])
        with pytest.raises(ConfigError, match=words) as wrong:
            load_certificate(config)
        assert wrong.value.field == field


def test_a_key_without_a_certificate_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match=r"together with server\.ssl_certfile"):
        ServerConfig(ssl_keyfile=Path("server.key"))
