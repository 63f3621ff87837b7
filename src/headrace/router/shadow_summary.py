"""What comparisons of answers show, added up by task and by the two tiers.

In: records of `shadow_log`. Out: a summary for each group, with intervals. Costs stay apart: what
the other tier cost was paid beside the calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen
from headrace.router.shadow_log import is_number, read_agreement

Z_95 = 1.959964


@frozen
class ShadowSummary:
    """Of one group. `agreement` is a mean with 95 percent; None where nothing was compared.

    `length_ratio` is the other tier's characters over those of the answers that were sent.
    `other_nano_usd` is None where a cost is not known.
    """

    task: str | None
    tier: str
    other_tier: str
    metric: str
    num_compared: int
    num_failed: int
    agreement: float | None
    agreement_95: tuple[float, float] | None
    full_agreement: float | None
    length_ratio: float | None
    mean_s: float | None
    other_mean_s: float | None
    other_nano_usd: int | None


def summarize(records: Iterable[tuple[str, Mapping[str, Any]]]) -> list[ShadowSummary]:
    """Groups in the order of their names, of records with where each is.

    Records that are no comparisons are left out. Raises: ConfigError for one that is broken.
    """
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for where, record in records:
        if "agreement" in record and record.get("other_tier"):
            _check(where, record)
            names = (record.get("task"), record.get("tier"), record["other_tier"])
            key = tuple("" if name is None else str(name) for name in names)
            groups.setdefault((*key, str(record.get("metric"))), []).append(record)
    return [_summarize(key, groups[key]) for key in sorted(groups)]


def _check(where: str, record: Mapping[str, Any]) -> None:
    if read_agreement(where, record) is None:
        return
    for name in ("num_chars", "other_num_chars", "duration_s", "other_duration_s"):
        if not is_number(record.get(name)):
            raise ConfigError(f"{name} of {where}", record.get(name), "a number")


def _summarize(key: Sequence[str], records: Sequence[Mapping[str, Any]]) -> ShadowSummary:
    task, tier, other_tier, metric = key
    compared = [record for record in records if record["agreement"] is not None]
    agreed = [float(record["agreement"]) for record in compared]
    costs = [record.get("other_cost_nano_usd") for record in compared]
    known = [cost for cost in costs if isinstance(cost, int)]
    return ShadowSummary(
        task or None,
        tier,
        other_tier,
        metric,
        len(compared),
        len(records) - len(compared),
        _mean(agreed),
        mean_interval(agreed),
        _mean([float(value >= 1.0) for value in agreed]),
        _ratio(compared, "other_num_chars", "num_chars"),
        _mean([float(record["duration_s"]) for record in compared]),
        _mean([float(record["other_duration_s"]) for record in compared]),
        sum(known) if len(known) == len(costs) else None,
    )


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 percent of a mean of numbers from 0 to 1; None of fewer than two.

    Where all are the same, nothing is known of how they spread: then ln(2/0.05)/n stays open.
    """
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = student_95(len(values) - 1) * math.sqrt(variance / len(values))
    if not variance:
        half = math.log(2 / 0.05) / len(values)
    return max(0.0, mean - half), min(1.0, mean + half)


def student_95(free: int) -> float:
    """The quantile of Student's t that leaves 2.5 percent above it, within a hundredth.

    Source: Abramowitz and Stegun, 26.7.5; one and two degrees exactly.
    """
    if free <= 2:
        return (12.7062, 4.3027)[free - 1]
    z = Z_95
    return (
        z
        + (z**3 + z) / (4 * free)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    )


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _ratio(records: Sequence[Mapping[str, Any]], above: str, below: str) -> float | None:
    total = sum(record[below] for record in records)
    return sum(record[above] for record in records) / total if total else None
