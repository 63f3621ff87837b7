"""A program in a terminal of its own: a pseudo-terminal that tests type into and read from."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

CTRL_C, CTRL_D = "\x03", "\x04"
# Bracketed paste and colours: what terminals act on and people do not see.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


# The new session takes the terminal as its own, so that Ctrl-C becomes a signal.
_TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A process on a terminal. `seen` is everything it has shown, control codes left out."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master, self.process = master, process
        self._raw = b""

    @property
    def seen(self) -> str:
        return _CONTROL.sub("", self._raw.decode("utf-8", "replace")).replace("\r", "")

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, pattern: str, begin: int = 0, timeout_s: float = 240.0) -> re.Match[str]:
        """Read until the pattern stands after position `begin` of `seen`."""
        end_s = time.monotonic() + timeout_s
        while not (match := re.compile(pattern, re.DOTALL).search(self.seen, begin)):
            assert self._read(end_s - time.monotonic()), f"no {pattern!r} in {self.seen!r}"
        return match

    def press_until(self, key: str, pattern: str) -> re.Match[str]:
        """Press a key until the pattern is the last that is seen.

        CPython's readline loses a Ctrl-C that comes after the prompt and before it listens.
        """
        for _ in range(20):
            self.type(key)
            end_s = time.monotonic() + 2
            while time.monotonic() < end_s:
                if match := re.search(pattern, self.seen, re.DOTALL):
                    return match
                self._read(end_s - time.monotonic())
        raise AssertionError(f"no {pattern!r} in {self.seen!r}")

    def end(self, timeout_s: float = 240.0) -> int:
        """Read to the end of the program; returns its exit code."""
        end_s = time.monotonic() + timeout_s
        while self._read(end_s - time.monotonic()):
            pass
        return self.process.wait(max(0.1, end_s - time.monotonic()))

    def _read(self, timeout_s: float) -> bool:
        """Take what has come; False when nothing comes any more, or not in time."""
        ready, _, _ = select.select([self._master], [], [], max(0.0, timeout_s))
        if not ready:
            return False
        try:
            chunk = os.read(self._master, 65536)
        except OSError:
            # Linux: the last program on the terminal has ended.
            return False
        self._raw += chunk
        return bool(chunk)


@contextmanager
def terminal(arguments: Sequence[str], env: dict[str, str]) -> Iterator[Terminal]:
    """Start a program with a terminal as its stdin, stdout and stderr; killed at the end."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _TAKE_TERMINAL, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=env,
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait()
        os.close(master)
