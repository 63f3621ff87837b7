"""Tables of commands: as wide as the terminal, and never broken on a pipe."""

from __future__ import annotations

import sys

from rich.console import Console

PIPE_COLUMNS = 200


def open_console() -> Console:
    """Where a command prints tables."""
    # A pipe has no width; lines that a program reads are not broken.
    return Console() if sys.stdout.isatty() else Console(width=PIPE_COLUMNS)
