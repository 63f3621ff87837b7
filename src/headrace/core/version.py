"""Which headrace this is, as the installer recorded it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def headrace_version() -> str:
    """The installed version; `0+unknown` in a checkout that is on the path but not installed."""
    try:
        return version("headrace")
    except PackageNotFoundError:
        return "0+unknown"
