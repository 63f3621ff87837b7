"""`headrace serve` as a process with a real model, and what tests ask of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from openai import AsyncOpenAI, OpenAI
from programs import Program, eventually, running

TIMEOUT_S = 240.0


@dataclass(frozen=True)
class ServedModel:
    """A server that answers."""

    program: Program
    address: str
    model: str
    api_key: str = "none"

    @property
    def base_url(self) -> str:
        return f"{self.address}/v1"

    def openai(self) -> OpenAI:
        return OpenAI(
            base_url=self.base_url, api_key=self.api_key, max_retries=0, timeout=TIMEOUT_S
        )

    def async_openai(self) -> AsyncOpenAI:
        return AsyncOpenAI(
            base_url=self.base_url, api_key=self.api_key, max_retries=0, timeout=TIMEOUT_S
        )

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=TIMEOUT_S)

    def metric(self, name: str) -> float:
        """A gauge or counter of /metrics, summed over its labels."""
        with self.client() as client:
            text = client.get("/metrics").text
        found = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        assert found, f"/metrics has no {name}"
        return sum(map(float, found))

    def wait_until_idle(self) -> None:
        """No request runs or waits, and every block that no prefix holds is free."""
        for name in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
            eventually(lambda name=name: self.metric(name) == 0, f"{name} is 0")


@contextmanager
def serve(
    model: Path | str,
    folder: Path,
    *options: str,
    api_key: str = "none",
    is_apart: bool = False,
    **environ: str,
) -> Iterator[ServedModel]:
    """Start `headrace serve` on a free port and wait until it answers.

    What it stores is in `folder`, unless the test says where: never in the home of who tests.
    """
    environ.setdefault("HEADRACE_DATABASE", f"sqlite:///{folder}/headrace.db")
    ask = ("serve", model, "--port", "0", *options)
    with running(folder, *ask, is_apart=is_apart, **environ) as program:
        ready = program.wait_for(
            lambda: re.search(r"ready at (http://\S+)/v1", program.stderr), "the server is ready"
        )
        headers = {"Authorization": f"Bearer {api_key}"}
        with httpx.Client(base_url=ready[1], headers=headers, timeout=TIMEOUT_S) as client:
            name = client.get("/v1/models").json()["data"][0]["id"]
        yield ServedModel(program, ready[1], name, api_key)


def engine_of(server: ServedModel) -> psutil.Process:
    """The engine process that runs now."""
    children = psutil.Process(server.program.process.pid).children()
    assert len(children) == 1, children
    return children[0]


def wait_for_another_engine(server: ServedModel, before: psutil.Process) -> psutil.Process:
    """The one engine process after that one. In between there is none, or there are two."""

    def look() -> psutil.Process | None:
        children = psutil.Process(server.program.process.pid).children()
        return children[0] if len(children) == 1 and children[0] != before else None

    return eventually(look, "another engine")
