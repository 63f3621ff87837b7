"""Turns on the machine, for measurements on one that others use too.

In: the path of a lock file, or none. Whoever locks that file (`flock FILE COMMAND` in a shell)
alternates with the measured runs; without a file every turn is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

SLICE_S = 110.0
"""Longest hold of the lock by something that can be stopped and go on."""


KEEP_S = 60.0
"""A hold shorter than this goes on into the next turn: queues behind a lock can be long."""


class CommandFailed(Exception):
    """A command of an installation ended with an error; the message has the end of its log."""

    def __init__(self, command: Sequence[str], code: int, log: Path) -> None:
        tail = "\n    ".join(log.read_text(errors="replace").splitlines()[-6:])
        super().__init__(f"{' '.join(command)[:200]} ended with {code}; {log}:\n    {tail}")


class Turn:
    """Holds the lock inside a `with`, and on into the next one while that costs others little.

    Units: `keep_s` seconds since the lock was got. The kernel drops it with the process.
    """

    def __init__(self, path: Path | None, keep_s: float = KEEP_S) -> None:
        self._path, self._keep_s = path, keep_s
        self._file = -1
        self._since_s = 0.0

    def __enter__(self) -> None:
        if self._path is not None and self._file < 0:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._since_s = time.monotonic()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if time.monotonic() - self._since_s >= self._keep_s:
            self.release()

    def release(self) -> None:
        """Let others go on. Calling it twice is harmless."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def run_in_turns(
    command: Sequence[str], turn: Turn, log: Path, environ: Mapping[str, str] | None = None
) -> None:
    """Run a long command in slices of the turn, stopped between them; its output goes to a log.

    Raises: CommandFailed with the end of the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        print("$", *command, file=output, flush=True)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environ or {})},
            start_new_session=True,
        )
        os.killpg(process.pid, signal.SIGSTOP)
        try:
            while process.poll() is None:
                with turn:
                    os.killpg(process.pid, signal.SIGCONT)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(SLICE_S)
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGSTOP)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if process.returncode:
        raise CommandFailed(command, process.returncode, log)
