"""Sections of a run, each a process of its own, and the file that keeps what each item gave.

A GPU that saw a wild address is lost to its process, and a wait can be endless; here that costs one
item. `Recorder` writes a line before and after each item; `Supervisor` starts a section, ends it
when its time is up, and starts it again after the item that killed it. Knows neither torch nor what
is measured.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_STARTS = 6
LEAST_SECONDS = 15
"""A section is not begun with less: the imports alone take half of that."""
TAIL = 1500
"""Characters of what a process said that are kept when it fails."""


class Recorder:
    """Items of a section, appended to a file of JSON lines; those that were begun are left out."""

    def __init__(
        self,
        path: Path,
        section: str,
        seconds: float,
        is_device_lost: Callable[[], bool] = lambda: False,
    ) -> None:
        self._path, self._section, self._is_device_lost = path, section, is_device_lost
        self._end = time.monotonic() + seconds
        self._begun = {line["name"] for line in read_lines(path) if line["section"] == section}

    def attempt(self, name: str, call: Callable[[], dict[str, Any]]) -> None:
        """Do one item and keep what it gives, or its error.

        Raises: SystemExit where the error has left the device unusable.
        """
        if name in self._begun:
            return
        self._begun.add(name)
        if time.monotonic() > self._end:
            self._write({"name": name, "skipped": "no time was left"})
            return
        self._write({"name": name, "begun": True})
        try:
            self._write({"name": name, **call()})
        except Exception as error:
            self._write({"name": name, "error": f"{type(error).__name__}: {error}"[:TAIL]})
            if self._is_device_lost():
                raise SystemExit("the device is lost to this process") from error

    def _write(self, line: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"section": self._section, **line}) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All lines of a record; one that was cut off by a crash is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def missing_packages() -> str:
    """What these scripts cannot do without, in a sentence; empty where it is all there."""
    missing = [name for name in ("torch", "triton") if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    return (
        f"This Python has no {' and no '.join(missing)}. In a checkout: .venv/bin/pip install -e "
        "'.[cuda]'; for a dry run without a GPU the CPU's torch and triton do."
    )


def items(path: Path) -> list[dict[str, Any]]:
    """One line per item: what it gave, or that its process died of it."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for line in read_lines(path):
        key = (line["section"], line["name"])
        found[key] = line | {"error": "its process died"} if line.pop("begun", False) else line
    return list(found.values())


@dataclass
class Supervisor:
    """Runs sections in `seconds` altogether; `problems` says what went wrong, by section."""

    path: Path
    log: Path
    seconds: float

    def __post_init__(self) -> None:
        self._end = time.monotonic() + self.seconds
        self.problems: dict[str, str] = {}
        self._log_lock = threading.Lock()

    @property
    def seconds_left(self) -> float:
        return self._end - time.monotonic()

    def run_all(self, sections: Mapping[str, tuple[Sequence[str], float]]) -> None:
        """Several at once: each one's command and its most seconds."""
        with ThreadPoolExecutor(len(sections)) as pool:
            runs = [pool.submit(self.run, name, *each) for name, each in sections.items()]
        for run in runs:
            run.result()

    def run(
        self, section: str, command: Sequence[str], most: float, env: dict[str, str] | None = None
    ) -> None:
        """`command` gets `--seconds` and runs until it ends well, most seconds at the longest."""
        end = time.monotonic() + min(most, self.seconds_left)
        for _ in range(MAX_STARTS):
            left = end - time.monotonic()
            if left < LEAST_SECONDS:
                self.problems.setdefault(section, "not run: the time of all sections is spent")
                return
            before = self._num_lines(section)
            problem = self._start([*command, "--seconds", f"{left - 5:.0f}"], left, env)
            if problem is None:
                return
            self.problems[section] = problem
            if self._num_lines(section) == before:
                return  # it failed before its first item, and would again

    def _num_lines(self, section: str) -> int:
        return sum(line["section"] == section for line in read_lines(self.path))

    def _start(self, command: list[str], seconds: float, env: dict[str, str] | None) -> str | None:
        """What went wrong, None where nothing did. What the process says goes to the log."""
        with tempfile.TemporaryFile("w+", errors="replace") as said:
            process = subprocess.Popen(
                command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True, env=env
            )
            problem = None
            try:
                status = process.wait(timeout=seconds)
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                problem = f"ended after {seconds:.0f} s"
            said.seek(0)
            text = said.read()
            with self._log_lock, self.log.open("a") as log:
                log.write(f"$ {' '.join(command)}\n{text}\n")
            if problem is None and status != 0:
                problem = f"exit status {status}: {text[-TAIL:]}"
            return problem
