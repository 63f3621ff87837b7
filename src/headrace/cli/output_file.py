"""Files that commands write: whether they can be, asked before the work and not after it."""

from __future__ import annotations

import os
from pathlib import Path

from headrace.core.errors import ConfigError


def check_output_file(flag: str, path: Path | None) -> None:
    """See that a file can be written; a device or a pipe can. None is no file.

    Raises: ConfigError that names the flag.
    """
    if path is None:
        return
    # Of a link, where it leads.
    folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.absolute().parent
    if path.is_dir():
        raise ConfigError(flag, str(path), "a file", "This is a folder; add the name of a file.")
    if not folder.is_dir():
        hint = f"There is no folder {folder}; make it first."
        raise ConfigError(flag, str(path), "a file in a folder that exists", hint)
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ConfigError(flag, str(path), "a file that can be written", "Permission denied.")
