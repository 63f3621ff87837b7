"""A runner process: one engine with one model, stopped whenever it is not the one measured.

In: a command that speaks the protocol. Out: timings of runs. A stopped process (SIGSTOP to its
whole group) costs memory and no processor time, so engines that spin while they wait disturb
nobody. Knows nothing of workloads.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protocol import Answer
from turn import SLICE_S, Turn


class RunnerFailed(Exception):
    """The runner ended, hung or said something else; the message has the end of its log."""


class Runner:
    """Starts stopped; `load` waits for the model, `run` measures."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environ},
                start_new_session=True,
            )
        self._pending = b""
        self.facts: dict[str, Any] = {}
        self._signal(signal.SIGSTOP)

    @property
    def pid(self) -> int:
        """Of the process that leads its group."""
        return self._process.pid

    def load(
        self, turn: Turn, model: str, options: Mapping[str, Any], timeout_s: float = 600.0
    ) -> float:
        """Load the model in turns with others; returns the seconds that the loading took.

        Raises: RunnerFailed.
        """
        self._send({"model": model, "options": dict(options)})
        used_s = 0.0
        while used_s < timeout_s:
            with turn:
                started = time.perf_counter()
                reply = self._awake(SLICE_S)
                used_s += time.perf_counter() - started
            if reply is not None:
                self.facts = reply["facts"]
                return used_s
        raise RunnerFailed(f"not ready after {used_s:.0f} s{self._tail()}")

    def run(
        self, prompts: Sequence[Sequence[int]], output_tokens: int, timeout_s: float = 300.0
    ) -> list[Answer]:
        """One run of requests: each answer's times. The caller holds the turn.

        Raises: RunnerFailed, also when an answer has not the length asked for.
        """
        self._send({"prompts": [list(ids) for ids in prompts], "output_tokens": output_tokens})
        reply = self._awake(timeout_s)
        if reply is None:
            raise RunnerFailed(f"no answer within {timeout_s:.0f} s{self._tail()}")
        answers = [Answer(*each) for each in reply["answers"]]
        lengths = {answer.num_tokens for answer in answers}
        if len(answers) != len(prompts) or lengths != {output_tokens}:
            raise RunnerFailed(
                f"asked {len(prompts)} answers of {output_tokens} tokens, "
                f"got {len(answers)} of {sorted(lengths)}"
            )
        return answers

    def close(self) -> None:
        """End the process and its children. Calling it twice is harmless."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _awake(self, timeout_s: float) -> dict[str, Any] | None:
        """Let the process go on until it replies; None when it did not in time."""
        self._signal(signal.SIGCONT)
        try:
            line = self._read_line(time.monotonic() + timeout_s)
        finally:
            self._signal(signal.SIGSTOP)
        return None if line is None else json.loads(line)

    def _read_line(self, deadline: float) -> bytes | None:
        pipe = self._process.stdout
        assert pipe is not None
        while b"\n" not in self._pending:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            part = os.read(pipe.fileno(), 1 << 16)
            if not part:
                raise RunnerFailed(f"ended with code {self._process.wait()}{self._tail()}")
            self._pending += part
        line, self._pending = self._pending.split(b"\n", 1)
        return line

    def _send(self, value: Mapping[str, Any]) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        # Kept below the pipe's 64 KiB, so that writing to a stopped process does not wait.
        try:
            pipe.write(json.dumps(value).encode() + b"\n")
            pipe.flush()
        except BrokenPipeError:
            raise RunnerFailed(f"ended with code {self._process.wait()}{self._tail()}") from None

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            os.killpg(self._process.pid, number)

    def _tail(self, num_lines: int = 6) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-num_lines:]
        return "".join(f"\n    {line[:300]}" for line in [f"log: {self._log}", *lines])
