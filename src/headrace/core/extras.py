"""What installs an extra of this package, for errors that name a missing one."""

from __future__ import annotations


def install_command(extra: str) -> str:
    """A command for a checkout: no package index has a release yet."""
    return f".venv/bin/pip install -e '.[{extra}]'"
