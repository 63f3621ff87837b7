"""The protocol between the harness and a runner: JSON lines, one run of requests at a time.

In, first line: {"model": path, "options": {...}}; then {"prompts": [[ids]], "output_tokens": n}.
Out: {"facts": {...}} when the model is loaded, then {"answers": [[first_s, last_s, tokens], ...]}
for each run. Needs nothing but the standard library: each peer imports it in its own environment.
Replies go to the real stdout; whatever a peer prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass
class Answer:
    """Times from when all requests of the run were sent. Units: seconds, tokens."""

    first_s: float = 0.0
    last_s: float = 0.0
    num_tokens: int = 0

    def note(self, now_s: float, num_tokens: int) -> None:
        """So many tokens of the answer are there now."""
        if num_tokens > self.num_tokens:
            self.first_s = now_s if self.num_tokens == 0 else self.first_s
            self.last_s, self.num_tokens = now_s, num_tokens


class RunnerEngine(Protocol):
    """What a runner wraps; `facts` are for the record: version, settings, work per token."""

    facts: dict[str, Any]

    def run(self, prompts: list[list[int]], output_tokens: int) -> list[Answer]:
        """Send all prompts at once; every answer has exactly `output_tokens`."""


def serve_runs(make_engine: Callable[[str, dict[str, Any]], RunnerEngine]) -> None:
    """Load the engine that the first line asks for and answer runs until stdin ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=replies, flush=True)

    asked = json.loads(sys.stdin.readline())
    engine = make_engine(asked["model"], asked["options"])
    reply({"facts": engine.facts})
    for line in sys.stdin:
        run = json.loads(line)
        answers = engine.run(run["prompts"], run["output_tokens"])
        found = [[answer.first_s, answer.last_s, answer.num_tokens] for answer in answers]
        reply({"answers": found})
