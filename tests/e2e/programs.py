"""Real processes for tests: the headrace command, to its end or running beside the test.

Output of what runs beside the test goes to files, shown when a wait fails; everything is killed at
the end. Waiting is polling with a deadline.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
COMMAND = (sys.executable, "-m", "headrace")
POLL_S = 0.02
DEADLINE_S = 240.0
# Settings of a developer's shell must not reach the program under test; where models are, may.
KEPT = ("HEADRACE_HOME", "HEADRACE_OFFLINE", "HEADRACE_CONNECT_TIMEOUT_S")


@dataclass(frozen=True)
class Result:
    """What a process that ended left."""

    code: int
    stdout: str
    stderr: str


def environment(**changes: str) -> dict[str, str]:
    """The environment of a program under test."""
    inherited = {
        name: text
        for name, text in os.environ.items()
        if name in KEPT or not name.startswith("HEADRACE_")
    }
    return {**inherited, "COLUMNS": "100", "PYTHONUNBUFFERED": "1", **changes}


def headrace(
    *arguments: str | Path, stdin: str | None = None, timeout_s: float = DEADLINE_S, **environ: str
) -> Result:
    """Run the command to its end."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input="" if stdin is None else stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout_s,
        check=False,
        env=environment(**environ),
    )
    return Result(done.returncode, done.stdout, done.stderr)


def eventually(
    look: Callable[[], T], what: str, timeout_s: float = DEADLINE_S, explain: str = ""
) -> T:
    """Look until what is found is true; fails with `what` when it never is."""
    end_s = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < end_s, f"{what}: not within {timeout_s:g} s. {explain}"
        time.sleep(POLL_S)
    return found


class Program:
    """A process beside the test. Its output goes to files in `folder`.

    What kills the group of the test, as `timeout` does, kills it too, unless it `is_apart`.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, env: dict[str, str], is_apart: bool = False
    ) -> None:
        self.stdout_path, self.stderr_path = folder / "stdout", folder / "stderr"
        with self.stdout_path.open("wb") as out, self.stderr_path.open("wb") as err:
            # A background job ignores SIGINT and its children inherit that.
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=env,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                process_group=0 if is_apart else None,
            )

    @property
    def stdout(self) -> str:
        return self.stdout_path.read_text(encoding="utf-8", errors="replace")

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, look: Callable[[], T], what: str, timeout_s: float = DEADLINE_S) -> T:
        """Wait for something while the process lives."""

        def check() -> T:
            found = look()
            code = self.process.poll()
            assert found or code is None, f"{what}: it ended with {code}. stderr: {self.stderr}"
            return found

        return eventually(check, what, timeout_s, f"stderr: {self.stderr}")

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)

    def end(self, timeout_s: float = DEADLINE_S) -> int:
        """Wait for its end; returns the exit code."""
        return self.process.wait(timeout_s)


@contextmanager
def beside(
    command: Sequence[str | Path], folder: Path, *, is_apart: bool = False, **environ: str
) -> Iterator[Program]:
    """A process beside the test, killed when the block ends."""
    program = Program([*map(str, command)], folder, environment(**environ), is_apart)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.wait()


def running(
    folder: Path, *arguments: str | Path, is_apart: bool = False, **environ: str
) -> AbstractContextManager[Program]:
    """The command beside the test, killed when the block ends."""
    return beside([*COMMAND, *arguments], folder, is_apart=is_apart, **environ)
