"""llama.cpp's own benchmarks behind the runner protocol: llama-bench and llama-batched-bench.

They draw their own random tokens, as many as the prompts given; loading is not in their times. In:
a GGUF file; the folder of the binaries in LLAMA_CPP_BIN. Any Python runs it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from protocol import Answer, serve_runs


class Engine:
    def __init__(self, model: str, options: dict[str, Any]) -> None:
        self._model = model
        self._folder = os.environ["LLAMA_CPP_BIN"]
        self._threads = str(options["num_threads"])
        found = self._bench("-p", "16", "-n", "0")
        self.facts = {"version": f"build {found['build_number']}"}

    def run(self, prompts: list[list[int]], output_tokens: int) -> list[Answer]:
        if len(prompts) > 1:
            return self._run_batch(len(prompts), len(prompts[0]), output_tokens)
        length = len(prompts[0])
        answer = Answer()
        if output_tokens == 1:
            answer.note(length / self._bench("-p", str(length), "-n", "0")["avg_ts"], 1)
            return [answer]
        num_steps = output_tokens - 1
        speed = self._bench("-p", "0", "-n", str(num_steps), "-d", str(length))["avg_ts"]
        answer.note(0.0, 1)
        answer.note(num_steps / speed, output_tokens)
        return [answer]

    def _bench(self, *flags: str) -> dict[str, Any]:
        command = [f"{self._folder}/llama-bench", "-m", self._model, "-t", self._threads]
        command += ["-fa", "1", "-r", "1", "-o", "json", *flags]
        rows: list[dict[str, Any]] = json.loads(_output(command))
        return rows[-1]

    def _run_batch(self, count: int, length: int, output_tokens: int) -> list[Answer]:
        num_cells = count * (length + output_tokens)
        command = [f"{self._folder}/llama-batched-bench", "-m", self._model, "-t", self._threads]
        command += ["-fa", "on", "-c", str(num_cells), "-npl", str(count), "-npp", str(length)]
        command += ["-ntg", str(output_tokens), "-b", "2048", "-ub", "512"]
        command += ["--output-format", "jsonl"]
        lines = [line for line in _output(command).splitlines() if line.startswith("{")]
        found = json.loads(lines[-1])
        answers = [Answer() for _ in range(count)]
        for answer in answers:
            answer.note(found["t_pp"], 1)
            answer.note(found["t"], output_tokens)
        return answers


def _output(command: list[str]) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    serve_runs(Engine)
