"""Options: every way to make a call that the workload allows, with its cost and what speaks for it.

In: a scenario, the profile, prices. Out: an Option for each combination of tier and moves; those
that may not be chosen say why. A Move is a change against today: everything on the baseline tier.
Asks no model; the choice between options is the optimizer's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from headrace.core.config import EngineConfig
from headrace.core.frozen import frozen
from headrace.core.usage import Usage
from headrace.planner.interval import (
    WORST_DIFFERENCE,
    WORST_SCORE,
    Interval,
    count_to_show,
    drawn_together,
    interval,
    paired_difference,
)
from headrace.planner.journal import messages_of
from headrace.planner.profile import Measured, Profile
from headrace.planner.tier_price import TierPrice, with_cached_prefix
from headrace.planner.workload import (
    DAY_S,
    Call,
    Evidence,
    Floor,
    LatencyObjective,
    Scenario,
    Task,
    Workload,
)

MoveKind = Literal["tier", "batch", "prefix_cache", "max_tokens", "merge"]
# holds: shown by the interval. unproved: it may. fails: it does not. none: there is no floor.
Verdict = Literal["holds", "unproved", "fails", "unmeasured", "none"]

BATCH_WINDOW_S = DAY_S
# What this engine caches are whole blocks.
OWN_BLOCK_TOKENS = EngineConfig().block_size


@frozen
class Move:
    """One change. `tasks` are those that it touches; `to` says to what."""

    kind: MoveKind
    tasks: tuple[str, ...]
    to: str

    def __str__(self) -> str:
        names = " + ".join(self.tasks)
        words = {
            "tier": f"{names} to {self.to}",
            "batch": f"{names} through {self.to}",
            "prefix_cache": f"{names} with {self.to}",
            "max_tokens": f"{names} with {self.to}",
            "merge": f"{names} in one call, {self.to}",
        }
        return words[self.kind]


@frozen
class TaskQuality:
    """A task's score under an option. `difference` is to the baseline, on the same samples.

    `unproved` is how many samples show too little and how many that score alike would show the
    floor; None for these where no number would, and for all that is no matter of samples.
    """

    score: Interval | None
    difference: Interval | None
    verdict: Verdict
    unproved: tuple[int, int | None] | None = None


@frozen
class TaskLatency:
    """Of what came, at the objective's percent; the verdict of all. None: unmeasured. Seconds."""

    ttft_s: float | None
    e2e_s: float | None
    verdict: Verdict


@frozen(kw_only=True)
class Option:
    """A call on a tier with moves. `nano_usd` is a day's, `input_nano_usd` a part; None: unpriced,
    and of tokens, which are those of a call: neither measured nor declared.

    `num_cut` answers reached max_tokens and `num_failed` never came, of `num_samples` each, which
    have `num_prompts` different prompts; where none came both are 0. `why_not` is empty where it
    may be chosen.
    """

    call: str
    tasks: tuple[str, ...]
    tier: str
    is_batch: bool
    has_prefix_cache: bool
    max_tokens: int
    nano_usd: int | None
    input_nano_usd: int | None
    input_tokens: float | None
    output_tokens: float | None
    quality: Mapping[str, TaskQuality]
    latency: Mapping[str, TaskLatency]
    num_samples: int
    num_prompts: int
    num_cut: int
    num_failed: int
    moves: tuple[Move, ...]
    why_not: tuple[str, ...]


class OptionMaker:
    """Makes the options of a scenario."""

    def __init__(
        self, profile: Profile, scenario: Scenario, prices: Mapping[str, TierPrice | None]
    ) -> None:
        self._profile, self._scenario, self._prices = profile, scenario, prices
        self._workload: Workload = profile.workload
        self._baseline = self._workload.tiers[scenario.baseline]
        self._common_shares: dict[str, float] = {}

    def make(self) -> list[Option]:
        """All of them, those that may not be chosen too."""
        return [option for call in self._workload.calls for option in self._of_call(call)]

    def baseline(self, task: Task) -> Option:
        """Today: the task's own call on the baseline tier."""
        return self._option(task.call, self._scenario.baseline, task.call.max_tokens, False, False)

    def _of_call(self, call: Call) -> Iterator[Option]:
        tasks = [self._workload.tasks[name] for name in call.outputs]
        limits = (call.max_tokens, *(() if call.is_merged else tasks[0].shorter))
        can_wait = all(task.can_wait_s >= BATCH_WINDOW_S for task in tasks)
        for tier in self._scenario.tiers:
            price = self._prices[tier]
            has_batch = can_wait and price is not None and price.has_batch
            has_cache = price is not None and self._prefix_tokens(call, tier) > 0
            for limit in limits:
                for is_batch in (False, True) if has_batch else (False,):
                    for is_cached in (False, True) if has_cache else (False,):
                        yield self._option(call, tier, limit, is_batch, is_cached)

    def _option(self, call: Call, tier: str, limit: int, is_batch: bool, is_cached: bool) -> Option:
        measured = self._profile.find(call, self._workload.tiers[tier], limit)
        num_failed = self._profile.num_failed(call, self._workload.tiers[tier])
        tasks = [self._workload.tasks[name] for name in call.outputs]
        moves = self._moves(call, tier, limit, is_batch, is_cached)
        quality = {task.name: self._quality(task, call, tier, measured) for task in tasks}
        latency = {task.name: _latency(task.latency, measured, is_batch) for task in tasks}
        usages = self._usages(call, measured)
        cost = self._cost(usages, call, tier, is_batch, is_cached)
        inputs = [replace(usage, output_tokens=0, reasoning_tokens=0) for usage in usages]
        asked = () if measured is None else measured.samples
        return Option(
            call=call.name,
            tasks=tuple(call.outputs),
            tier=tier,
            is_batch=is_batch,
            has_prefix_cache=is_cached,
            max_tokens=limit,
            nano_usd=cost,
            input_nano_usd=self._cost(inputs, call, tier, is_batch, is_cached),
            input_tokens=_mean([usage.input_tokens for usage in usages]),
            output_tokens=_mean([usage.output_tokens for usage in usages]),
            quality=quality,
            latency=latency,
            num_samples=len(asked),
            num_prompts=len(set(map(call.first_alike, asked))),
            num_cut=0 if measured is None else measured.num_cut,
            num_failed=num_failed,
            moves=moves,
            why_not=tuple(_why_not(cost, quality, latency, measured is not None, num_failed)),
        )

    def _usages(self, call: Call, measured: Measured | None) -> Sequence[Usage]:
        """Measured tokens, else those that the workload declares; none of a merged call."""
        if measured is not None:
            return measured.usages
        declared = self._workload.tasks[call.name].tokens if not call.is_merged else None
        if declared is None:
            return ()
        return (Usage(input_tokens=declared.input, output_tokens=declared.output),)

    def _cost(
        self, usages: Sequence[Usage], call: Call, tier: str, is_batch: bool, is_cached: bool
    ) -> int | None:
        price = self._prices[tier]
        if price is None or not usages:
            return None
        volume = self._workload.tasks[next(iter(call.outputs))].volume_per_day
        if is_cached:
            usages = with_cached_prefix(usages, self._prefix_tokens(call, tier), price, volume)
        return price.day_nano_usd(usages, volume, is_batch)

    def _prefix_tokens(self, call: Call, tier: str) -> int:
        """Tokens that all prompts of a call begin with, where the tier caches so few; else 0.

        By the share of characters: exact counts need the tier's tokenizer.
        """
        measured = self._profile.find(call, self._workload.tiers[tier])
        price = self._prices[tier]
        if measured is None or price is None:
            return 0
        tokens = int(measured.mean_input * self._common_share(call))
        if price.is_own:
            return tokens - tokens % OWN_BLOCK_TOKENS
        floor = self._workload.tiers[tier].cache_floor_tokens
        return tokens if tokens >= floor else 0

    def _common_share(self, call: Call) -> float:
        """How much of the prompts all of them begin with; one prompt alone shows nothing."""
        if call.name not in self._common_shares:
            texts = [
                "".join(message.content or "" for message in messages_of(call, sample))
                for sample in call.samples
            ]
            first, last = min(texts), max(texts)
            pairs = enumerate(zip(first, last, strict=False))
            # What the first and last in order share, all of them do.
            common = next((i for i, (a, b) in pairs if a != b), len(first)) if first != last else 0
            self._common_shares[call.name] = common * len(texts) / max(1, sum(map(len, texts)))
        return self._common_shares[call.name]

    def _moves(
        self, call: Call, tier: str, limit: int, is_batch: bool, is_cached: bool
    ) -> tuple[Move, ...]:
        names, price = tuple(call.outputs), self._prices[tier]
        moves = []
        if call.is_merged:
            moves.append(Move("merge", names, call.name))
        if tier != self._scenario.baseline:
            moves.append(Move("tier", names, tier))
        if is_batch:
            is_own = price is not None and price.is_own
            moves.append(Move("batch", names, "off-peak hours" if is_own else "the batch API"))
        if is_cached:
            moves.append(Move("prefix_cache", names, "their common beginning cached"))
        if limit != call.max_tokens:
            moves.append(Move("max_tokens", names, f"max_tokens {limit}"))
        return tuple(moves)

    def _quality(self, task: Task, call: Call, tier: str, measured: Measured | None) -> TaskQuality:
        if measured is None or task.name not in measured.rows:
            return TaskQuality(None, None, "unmeasured")
        workload, metric = self._workload, self._profile.metrics[task.name]
        rows = measured.rows[task.name]
        names = [task.call.first_alike(sample) for sample in measured.samples]
        score = interval(drawn_together(rows, names), metric.combine, workload.confidence)
        today = self._profile.find(task.call, self._baseline)
        difference = None
        if today is not None and task.name in today.rows:
            ours, theirs = _same_samples(measured, today)
            if ours:
                both = [names[place] for place in ours]
                a = drawn_together(rows[ours], both)
                b = drawn_together(today.rows[task.name][theirs], both)
                difference = paired_difference(a, b, metric.combine, workload.confidence)
        is_today = measured is today
        verdict = judge_floor(task.floor, score, difference, is_today, workload.evidence)
        if verdict != "unproved":
            return TaskQuality(score, difference, verdict)
        unproved = _unproved(task.floor, score, None if is_today else difference, workload)
        return TaskQuality(score, difference, verdict, unproved)


def judge_floor(
    floor: Floor,
    score: Interval,
    difference: Interval | None,
    is_today: bool,
    evidence: Evidence,
) -> Verdict:
    """Whether a floor is held. What runs today is never worse than itself."""
    found: list[Verdict] = []
    if floor.least is not None:
        found.append(_compare(score, floor.least, evidence))
    if floor.within is not None and not is_today:
        found.append(
            "unmeasured" if difference is None else _compare(difference, -floor.within, evidence)
        )
    order: tuple[Verdict, ...] = ("fails", "unmeasured", "unproved", "holds")
    is_none = floor.least is None and floor.within is None
    return next((verdict for verdict in order if verdict in found), "none" if is_none else "holds")


def _compare(found: Interval, least: float, evidence: Evidence) -> Verdict:
    if evidence == "mean":
        return "holds" if found.mean >= least else "fails"
    if found.low >= least:
        return "holds"
    return "fails" if found.high < least else "unproved"


def _unproved(
    floor: Floor, score: Interval, difference: Interval | None, workload: Workload
) -> tuple[int, int | None]:
    """How many samples leave a floor open, and how many that score alike would show it."""
    bars = [] if floor.least is None else [(score, floor.least, WORST_SCORE)]
    if floor.within is not None and difference is not None:
        bars.append((difference, -floor.within, WORST_DIFFERENCE))
    bars = [(found, least, worst) for found, least, worst in bars if found.low < least]
    needed = [count_to_show(*bar, workload.confidence) for bar in bars]
    known = [count for count in needed if count is not None]
    return min(found.count for found, _, _ in bars), max(known) if known == needed else None


def _mean(counts: Sequence[int]) -> float | None:
    return sum(counts) / len(counts) if counts else None


def _same_samples(a: Measured, b: Measured) -> tuple[list[int], list[int]]:
    """Places of the samples that both have, in each of them."""
    place = {name: index for index, name in enumerate(b.samples)}
    ours = [index for index, name in enumerate(a.samples) if name in place]
    return ours, [place[a.samples[index]] for index in ours]


def _latency(
    objective: LatencyObjective | None, measured: Measured | None, is_batch: bool
) -> TaskLatency:
    if measured is None:
        return TaskLatency(None, None, "none" if objective is None or is_batch else "unmeasured")
    percent = 95.0 if objective is None else objective.percent
    # An answer's own time: of six the slowest, or a sixth of them would be over a limit that holds.
    seen_s = np.array((measured.ttft_s, measured.e2e_s))
    ttft_s, e2e_s = np.percentile(seen_s, percent, axis=1, method="inverted_cdf").tolist()
    if objective is None or is_batch:
        return TaskLatency(ttft_s, e2e_s, "none")
    # What never came did not come within the limits.
    never_s = np.full((2, len(measured.samples) - len(measured.e2e_s)), np.inf)
    all_s = np.percentile(np.hstack((seen_s, never_s)), percent, axis=1, method="inverted_cdf")
    return TaskLatency(ttft_s, e2e_s, "holds" if objective.holds(*all_s.tolist()) else "fails")


def _why_not(
    cost: int | None,
    quality: Mapping[str, TaskQuality],
    latency: Mapping[str, TaskLatency],
    is_measured: bool,
    num_failed: int,
) -> Iterator[str]:
    if not is_measured:
        yield f"not measured: {num_failed} requests failed" if num_failed else "not measured"
        return
    if cost is None:
        yield "unpriced"
    words = {
        "fails": "is below its floor",
        "unmeasured": "has no score yet",
    }
    for task, found in quality.items():
        if found.unproved is not None:
            yield f"{task} {_not_shown(*found.unproved)}"
        elif found.verdict in words:
            yield f"{task} {words[found.verdict]}"
    for task, times in latency.items():
        if times.verdict == "fails":
            yield f"{task} is too slow"


def _not_shown(count: int, needed: int | None) -> str:
    text = f"is not shown to hold its floor by {count} {'sample' if count == 1 else 'samples'}"
    if needed is None:
        return f"{text}, whose mean is not above it"
    return f"{text} (about {needed:,} that score alike would show it)"
