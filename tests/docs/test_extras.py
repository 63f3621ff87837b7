"""Extras that pages and errors tell people to install are there, in a checkout and not on PyPI."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_extras_are_installed_from_a_checkout() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    files = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/headrace/**/*.py")]
    texts = {file: file.read_text() for file in files}
    assert [file for file, text in texts.items() if "headrace[" in text] == []
    found = re.findall(
        r"pip install (?:-e )?'\.\[([\w,]+)\]'|install_command\('(\w+)'\)", "".join(texts.values())
    )
    named = {extra for groups in found for names in groups for extra in names.split(",") if extra}
    assert {"cuda", "otel", "postgres"} <= named <= set(known)
