"""Fit a RouteModel to requests of which is known whether the cheap answer would have done.

In: features with a label each: records of comparisons, or a labelled file. Out: the model with its
threshold at a wanted share of premium calls, and what that share gets, beside always-cheap,
always-premium and chance at the same share. What is reported was predicted for rows that were not
fitted (cross-validation).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.core.errors import ConfigError
from headrace.core.message import Message
from headrace.core.request import GenerateRequest
from headrace.router.features import read_facts
from headrace.router.logistic import (
    Logistic,
    area_interval,
    area_under_curve,
    fit,
)
from headrace.router.route_features import FEATURES, feature_values
from headrace.router.route_model import RouteModel, standardize

MIN_ROWS = 20
MIN_OF_EACH = 5
NUM_FOLDS = 5
# Standardized features: as if a row in five spoke against each weight.
PENALTY = 1.0


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """Features of a request; `needs_premium`: the cheap answer would not have done."""

    values: Mapping[str, float]
    needs_premium: bool


def read_rows(
    records: Iterable[Mapping[str, Any]], min_agreement: float, cheap: str | None
) -> list[LabelledRow]:
    """Rows of records that can be used; comparisons that failed are left out.

    A record has `needs_premium`, or an `agreement`, of which less than `min_agreement` means so;
    and `features`, or a `prompt` or `messages`. `cheap` keeps comparisons with that tier alone.
    Raises: ConfigError.
    """
    rows = []
    for number, record in enumerate(records, 1):
        if cheap is not None and cheap not in (record.get("tier"), record.get("other_tier")):
            continue
        label = record.get("needs_premium")
        if label is None:
            agreed = record.get("agreement")
            if agreed is None and "agreement" in record:
                continue
            if not isinstance(agreed, int | float) or isinstance(agreed, bool):
                raise _bad(number, "needs_premium: true or false, or an agreement")
            label = agreed < min_agreement
        if not isinstance(label, bool):
            raise _bad(number, "needs_premium: true or false")
        rows.append(LabelledRow(_values_of(record, number), label))
    return rows


def fit_route_model(rows: Sequence[LabelledRow], premium_share: float) -> RouteModel:
    """Raises: ConfigError for too few rows."""
    labels = [row.needs_premium for row in rows]
    num_yes = sum(labels)
    num_no = len(rows) - num_yes
    if len(rows) < MIN_ROWS or min(num_yes, num_no) < MIN_OF_EACH:
        given = f"{len(rows)} rows, {num_yes} that need the premium tier"
        allowed = f"at least {MIN_ROWS} rows, {MIN_OF_EACH} of each kind"
        raise ConfigError("FILE", given, allowed)
    names = _useful(rows)
    table = [[row.values[name] for name in names] for row in rows]
    held_out = _cross_validated(table, labels)
    model, means, scales = _fit_standardized(table, labels)
    scores = [model.probability(standardize(values, means, scales)) for values in table]
    threshold = threshold_for(scores, premium_share)
    metrics = _measure(held_out, labels, threshold_for(held_out, premium_share))
    metrics["target_premium_share"] = premium_share
    metrics["fitted_premium_share"] = _share([score > threshold for score in scores])
    return RouteModel(tuple(names), tuple(means), tuple(scales), model, threshold, metrics)


def threshold_for(scores: Sequence[float], premium_share: float) -> float:
    """The score above which lies at most the wanted share, and no less than ties allow."""
    ranked = sorted(scores, reverse=True)
    num_premium = math.floor(premium_share * len(ranked) + 1e-9)
    return ranked[num_premium] if num_premium < len(ranked) else 0.0


def _bad(number: int, allowed: str) -> ConfigError:
    return ConfigError("FILE", f"record {number}", f"records with {allowed}")


def _values_of(record: Mapping[str, Any], number: int) -> Mapping[str, float]:
    """Features of a record, or of the request that it has."""
    known = record.get("features")
    if isinstance(known, Mapping):
        missing = [name for name in FEATURES if not isinstance(known.get(name), int | float)]
        if missing:
            raise _bad(number, f"all features; missing: {', '.join(missing)}")
        return {name: float(known[name]) for name in FEATURES}
    messages, prompt = record.get("messages"), record.get("prompt")
    if isinstance(prompt, str):
        messages = [{"role": "user", "content": prompt}]
    try:
        turns = tuple(Message(str(turn["role"]), str(turn["content"])) for turn in messages or ())
    except (TypeError, KeyError):
        turns = ()
    if not turns:
        raise _bad(number, "features, a prompt, or messages with role and content")
    return feature_values(read_facts(GenerateRequest(request_id="", model="", messages=turns)))


def _useful(rows: Sequence[LabelledRow]) -> list[str]:
    """Features that differ between rows."""
    found = [name for name in FEATURES if len({row.values[name] for row in rows}) > 1]
    if not found:
        raise ConfigError("FILE", "rows that are all alike", "requests that differ")
    return found


def _fit_standardized(
    table: Sequence[Sequence[float]], labels: Sequence[bool]
) -> tuple[Logistic, list[float], list[float]]:
    columns = list(zip(*table, strict=True))
    means = [math.fsum(column) / len(column) for column in columns]
    scales = [
        math.sqrt(math.fsum((value - mean) ** 2 for value in column) / len(column)) or 1.0
        for column, mean in zip(columns, means, strict=True)
    ]
    rows = [standardize(values, means, scales) for values in table]
    return fit(rows, labels, PENALTY), means, scales


def _cross_validated(table: Sequence[Sequence[float]], labels: Sequence[bool]) -> list[float]:
    """A score for each row by a model that has not seen it; folds have equal shares of yes."""
    order = sorted(range(len(table)), key=lambda index: labels[index])
    # The same file gives the same folds.
    chance = random.Random(0)  # noqa: S311 - no secret
    for label in (False, True):
        members = [index for index in order if labels[index] is label]
        chance.shuffle(members)
        start = 0 if not label else len(order) - len(members)
        order[start : start + len(members)] = members
    scores = [0.0] * len(table)
    for fold in range(NUM_FOLDS):
        tested = order[fold::NUM_FOLDS]
        seen = [index for index in order if index not in set(tested)]
        model, means, scales = _fit_standardized(
            [table[index] for index in seen], [labels[index] for index in seen]
        )
        for index in tested:
            scores[index] = model.probability(standardize(table[index], means, scales))
    return scores


def _measure(scores: Sequence[float], labels: Sequence[bool], threshold: float) -> dict[str, Any]:
    """What a threshold does; the two errors are apart, for they cost different things."""
    num_yes = sum(labels)
    area = area_under_curve(scores, labels)
    low, high = area_interval(area, num_yes, len(labels) - num_yes)
    sent = [score > threshold for score in scores]
    hard_sent_cheap = sum(label and not up for label, up in zip(labels, sent, strict=True))
    easy_sent_premium = sum(up and not label for label, up in zip(labels, sent, strict=True))
    share, need = _share(sent), num_yes / len(labels)
    return {
        "num_rows": len(labels),
        "num_needing_premium": num_yes,
        "auc": round(area, 4),
        "auc_95": [round(low, 4), round(high, 4)],
        "premium_share": round(share, 4),
        "hard_sent_cheap": round(hard_sent_cheap / len(labels), 4),
        "easy_sent_premium": round(easy_sent_premium / len(labels), 4),
        "good_enough": round(1 - hard_sent_cheap / len(labels), 4),
        "good_enough_always_cheap": round(1 - need, 4),
        "good_enough_always_premium": 1.0,
        "good_enough_random_same_share": round(1 - need * (1 - share), 4),
    }


def _share(chosen: Sequence[bool]) -> float:
    return sum(chosen) / len(chosen)
