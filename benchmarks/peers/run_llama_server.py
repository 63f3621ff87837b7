"""llama.cpp's llama-server behind the runner protocol: streamed completions over HTTP.

In: a GGUF file; the folder of the binaries in LLAMA_CPP_BIN. Prompts are token ids and no part of
them is cached. Needs nothing but the standard library, so any Python runs it.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from protocol import Answer, serve_runs

LOAD_TIMEOUT_S = 300.0


class Engine:
    def __init__(self, model: str, options: dict[str, Any]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        folder = os.environ["LLAMA_CPP_BIN"]
        version = subprocess.run(
            [f"{folder}/llama-server", "--version"], capture_output=True, text=True, check=True
        )
        self.facts = {"version": (version.stdout + version.stderr).split("\n")[0]}
        self._process = subprocess.Popen(
            [
                f"{folder}/llama-server", "--model", model, "--port", str(self._port),
                "--ctx-size", str(options["max_num_seqs"] * 256), "--kv-unified",
                "--parallel", str(options["max_num_seqs"]), "--cache-ram", "0", "--no-webui",
                "--threads", str(options["num_threads"]), "--flash-attn", "on",
                "--batch-size", "2048", "--ubatch-size", "512",
            ],
            stdout=sys.stderr,
        )  # fmt: skip
        self._wait_until_ready()

    def run(self, prompts: list[list[int]], output_tokens: int) -> list[Answer]:
        answers = [Answer() for _ in prompts]
        started = time.perf_counter()
        threads = [
            threading.Thread(target=self._ask, args=(prompt, output_tokens, answer, started))
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    def _ask(self, prompt: list[int], output_tokens: int, answer: Answer, started: float) -> None:
        body = {
            "prompt": prompt,
            "n_predict": output_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "cache_prompt": False,
            "stream": True,
            "return_tokens": True,
        }
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        connection.request(
            "POST", "/completion", json.dumps(body), {"Content-Type": "application/json"}
        )
        num_tokens = 0
        for line in connection.getresponse():
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                # The last event repeats nothing; its count also has tokens held back as text.
                num_tokens += len(event.get("tokens", ()))
                if event.get("stop"):
                    num_tokens = event["tokens_predicted"]
                answer.note(time.perf_counter() - started, num_tokens)
        connection.close()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + LOAD_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                sys.exit(f"llama-server ended with code {self._process.returncode}.")
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        sys.exit(f"llama-server was not ready after {LOAD_TIMEOUT_S:.0f} s.")


if __name__ == "__main__":
    serve_runs(Engine)
