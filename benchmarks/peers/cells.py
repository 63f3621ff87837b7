"""The cells of the table: which requests, and the one number each is about.

In: timings of a run. Out: tokens per second, or seconds for the start. Prompts are token ids drawn
new for every run and engine, so that no cache of prefixes helps anybody.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from protocol import Answer

Measure = Literal["prefill", "decode", "together", "start"]
MODELS = {
    "0.5b": "qwen2.5-coder:0.5b",
    "1.5b": "qwen2.5-coder:1.5b",
    "270m": "gemma3:270m",
}
# Below the special tokens of every vocabulary here, above the bytes and control tokens.
FIRST_ID, PAST_ID = 1_000, 100_000


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload on one model. Units: tokens."""

    model: str
    measure: Measure
    num_requests: int
    prompt_tokens: int
    output_tokens: int

    @property
    def name(self) -> str:
        return f"{self.measure}-{self.model}"

    @property
    def title(self) -> str:
        """The cell for people, with its unit."""
        return {
            "prefill": f"prompt of {self.prompt_tokens} tokens, tokens/s",
            "decode": "one stream, tokens/s",
            "together": f"{self.num_requests} requests at once ({self.prompt_tokens} in, "
            f"{self.output_tokens} out), output tokens/s",
            "start": "start to first token, s",
        }[self.measure]

    @property
    def is_time(self) -> bool:
        """Less is better."""
        return self.measure == "start"

    def prompts(self, source: random.Random) -> list[list[int]]:
        return [
            [source.randrange(FIRST_ID, PAST_ID) for _ in range(self.prompt_tokens)]
            for _ in range(self.num_requests)
        ]

    def value(self, answers: Sequence[Answer]) -> float:
        """The number of the cell, from a run of its requests. Units: tokens/s."""
        first, last = answers[0], max(answer.last_s for answer in answers)
        if self.measure == "prefill":
            return self.prompt_tokens / first.first_s
        if self.measure == "decode":
            return (first.num_tokens - 1) / (first.last_s - first.first_s)
        return sum(answer.num_tokens for answer in answers) / last

    def ratio(self, ours: float, theirs: float) -> float:
        """How many times better ours is."""
        return theirs / ours if self.is_time else ours / theirs


CELLS = (
    Cell("0.5b", "prefill", 1, 512, 1),
    Cell("0.5b", "decode", 1, 16, 64),
    Cell("0.5b", "together", 32, 128, 64),
    Cell("0.5b", "start", 1, 16, 1),
    Cell("1.5b", "prefill", 1, 512, 1),
    Cell("1.5b", "decode", 1, 16, 64),
    Cell("1.5b", "together", 32, 128, 64),
    Cell("270m", "prefill", 1, 512, 1),
    Cell("270m", "decode", 1, 16, 64),
)
