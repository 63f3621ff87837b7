"""The rounds of a benchmark: engine and roof in alternation, medians and spread at the end.

In: an engine, the work of a token, a probe of the machine's roof. Out: BenchReport, as rows for
people and as one JSON object. These machines drift within minutes, so every share is taken within
its round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, field
from typing import Any

from headrace.bench.measure import PromptSource, run_together
from headrace.core.backend import Backend
from headrace.core.frozen import frozen
from headrace.core.machine import Roof
from headrace.core.units import format_number
from headrace.engine.build import WorkPerToken

TOPS = 1e12
GB = 1e9


@frozen
class Settings:
    """Units: tokens, requests, rounds."""

    prompt_tokens: int = 512
    decode_tokens: int = 64
    concurrency: int = 32
    concurrent_prompt_tokens: int = 128
    concurrent_output_tokens: int = 64
    rounds: int = 3


@frozen
class Round:
    """One alternation: probe, prefill, decode, many together."""

    roof: Roof
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    ttft_ms: float
    tpot_ms: float
    concurrent_output_tokens_per_s: float
    decode_gb_per_s: float
    decode_share_of_bandwidth: float
    prefill_tops: float
    prefill_share_of_int8: float


@frozen
class BenchReport:
    """All rounds of one model."""

    model: str
    settings: Settings
    work: WorkPerToken
    rounds: tuple[Round, ...]
    environment: dict[str, Any] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return float(statistics.median(getattr(each, name) for each in self.rounds))

    def spread(self, name: str) -> tuple[float, float]:
        values = [getattr(each, name) for each in self.rounds]
        return min(values), max(values)

    def as_json(self) -> dict[str, Any]:
        """One object: settings, work, medians, every round."""
        names = [name for name in Round.__dataclass_fields__ if name != "roof"]
        return {
            "model": self.model,
            **self.environment,
            "settings": asdict(self.settings),
            "work": asdict(self.work),
            "median": {name: self.median(name) for name in names},
            "rounds": [asdict(each) for each in self.rounds],
        }


async def run_bench(
    engine: Backend,
    work: WorkPerToken,
    vocab_size: int,
    probe: Callable[[], Roof],
    settings: Settings,
    on_round: Callable[[int, Round], None] | None = None,
    environment: dict[str, Any] | None = None,
) -> BenchReport:
    """Run the rounds. A short request first, so that first use costs nothing in round one."""
    prompts = PromptSource(vocab_size)
    await run_together(engine, [prompts.prompt(64)], 4)
    rounds: list[Round] = []
    for number in range(settings.rounds):
        rounds.append(await run_round(engine, work, prompts, probe(), settings))
        if on_round is not None:
            on_round(number, rounds[-1])
    name = engine.models()[0].name
    return BenchReport(name, settings, work, tuple(rounds), environment or {})


async def run_round(
    engine: Backend, work: WorkPerToken, prompts: PromptSource, roof: Roof, settings: Settings
) -> Round:
    """Prefill and decode of one stream, then many streams at once."""
    prefill = await run_together(engine, [prompts.prompt(settings.prompt_tokens)], 1)
    alone = await run_together(engine, [prompts.prompt(16)], settings.decode_tokens)
    many = await run_together(
        engine,
        [prompts.prompt(settings.concurrent_prompt_tokens) for _ in range(settings.concurrency)],
        settings.concurrent_output_tokens,
    )
    ttft_s = prefill.requests[0].ttft_s
    tpot_s = alone.requests[0].tpot_s
    operations = 2 * (work.body_weights * settings.prompt_tokens + work.head_weights)
    return Round(
        roof=roof,
        prefill_tokens_per_s=settings.prompt_tokens / ttft_s,
        decode_tokens_per_s=1 / tpot_s,
        ttft_ms=ttft_s * 1e3,
        tpot_ms=tpot_s * 1e3,
        concurrent_output_tokens_per_s=many.output_tokens_per_s,
        decode_gb_per_s=work.stream_bytes / tpot_s / GB,
        decode_share_of_bandwidth=work.stream_bytes / tpot_s / roof.read_bytes_per_s,
        prefill_tops=operations / ttft_s / TOPS,
        prefill_share_of_int8=operations / ttft_s / roof.int8_ops_per_s,
    )


def table_rows(report: BenchReport) -> Sequence[tuple[str, str, str, str]]:
    """Rows for people: what, median, lowest to highest, and the share of the roof."""
    shown = (
        ("prefill tokens/s", "prefill_tokens_per_s", "prefill_share_of_int8", "int8 peak"),
        ("time to first token, ms", "ttft_ms", None, ""),
        ("decode tokens/s", "decode_tokens_per_s", "decode_share_of_bandwidth", "read bandwidth"),
        ("time per output token, ms", "tpot_ms", None, ""),
        ("concurrent output tokens/s", "concurrent_output_tokens_per_s", None, ""),
        ("decode GB/s", "decode_gb_per_s", None, ""),
        ("prefill TOP/s", "prefill_tops", None, ""),
    )
    rows = []
    for title, name, share, of_what in shown:
        low, high = report.spread(name)
        part = f"{report.median(share):.0%} of {of_what}" if share else ""
        middle = format_number(report.median(name))
        rows.append((title, middle, f"{format_number(low)} to {format_number(high)}", part))
    return rows
