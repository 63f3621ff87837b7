"""From settings and a target to a report: decides the load, runs it, sums it up.

In: LoadSettings, a target, where prompts come from. Out: the JSON object of `load_report`.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Iterator, Mapping
from typing import Any

from headrace.bench.load import LoadRun, OnEnd, Target
from headrace.bench.load_report import LoadSettings, summarize
from headrace.bench.outcome import Outcome
from headrace.bench.workload import (
    Ask,
    FilePrompt,
    PromptMaker,
    file_asks,
    made_asks,
    poisson_arrivals,
)
from headrace.core.frozen import frozen
from headrace.core.version import headrace_version

_DRAWN_AT_ONCE = 256


@frozen
class LoadPlan:
    """Everything a run needs. `description` says in the report who answered."""

    settings: LoadSettings
    target: Target
    description: Mapping[str, Any]
    prompts: PromptMaker | tuple[FilePrompt, ...]

    def asks(self) -> Iterator[Ask]:
        """The requests, each drawn when it is asked for."""
        settings = self.settings
        if isinstance(self.prompts, tuple):
            return file_asks(
                self.prompts, settings.num_requests, settings.output_tokens, settings.seed
            )
        if settings.prompt_tokens is None:
            raise ValueError("made prompts need lengths")
        return made_asks(
            self.prompts,
            settings.num_requests,
            settings.prompt_tokens,
            settings.output_tokens,
            settings.seed,
        )


async def run_load(plan: LoadPlan, on_end: OnEnd, cpu_model: str) -> dict[str, Any]:
    """Run it. `on_end` hears of each request that ended."""
    asks: list[Ask] = []
    for ask in plan.asks():
        asks.append(ask)
        if len(asks) % _DRAWN_AT_ONCE == 0:
            await asyncio.sleep(0)  # Ctrl-C is heard
    environment = {
        "headrace_version": headrace_version(),
        "python_version": platform.python_version(),
        "client_cpu": cpu_model,
        "started_unix_s": round(time.time(), 3),
    }
    run = LoadRun(plan.target, plan.settings.timeout_s, on_end)
    outcomes = await _drive(run, plan.settings, asks)
    return summarize(plan.settings, outcomes, plan.description, environment)


async def _drive(run: LoadRun, settings: LoadSettings, asks: list[Ask]) -> list[Outcome]:
    if settings.rate_per_s is not None:
        arrivals_s = poisson_arrivals(len(asks), settings.rate_per_s, settings.seed)
        return await run.open(asks, arrivals_s)
    return await run.closed(asks, settings.concurrency or 1)
