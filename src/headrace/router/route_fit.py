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
from typing import Any

from headrace.core.errors import ConfigError, InWords
from headrace.core.frozen import frozen
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
from headrace.router.shadow_log import is_number, read_agreement

MIN_ROWS = 20
MIN_OF_EACH = 5
NUM_FOLDS = 5
# Standardized features: as if a row in five spoke against each weight.
PENALTY = 1.0
_ENOUGH = f"at least {MIN_ROWS} records, {MIN_OF_EACH} of each kind"
_MORE = "`routing.shadow` makes them, or label requests: a prompt and needs_premium on each line."


@frozen
class LabelledRow:
    """Features of a request; `needs_premium`: the cheap answer would not have done.

    `agreement` is what tells so, where nobody said it.
    """

    values: Mapping[str, float]
    needs_premium: bool
    agreement: float | None = None


def read_rows(
    records: Iterable[tuple[str, Mapping[str, Any]]], min_agreement: float, cheap: str | None
) -> list[LabelledRow]:
    """Rows of records, each with where it is; comparisons that failed are left out.

    A record has `needs_premium`, or an `agreement`, of which less than `min_agreement` means so;
    and `features`, or a `prompt` or `messages`. `cheap` keeps comparisons with that tier alone.
    Raises: ConfigError, also where nothing is left.
    """
    rows: list[LabelledRow] = []
    num_failed, tiers = 0, dict[str, None]()
    for where, record in records:
        compared = [str(record[name]) for name in ("tier", "other_tier") if record.get(name)]
        tiers |= dict.fromkeys(compared)
        if cheap is not None and cheap not in compared:
            continue
        if record.get("needs_premium") is None and record.get("agreement", 0) is None:
            num_failed += 1
            continue
        rows.append(_read_row(where, record, min_agreement))
    if rows:
        return rows
    if num_failed:
        given = InWords(f"nothing but {num_failed} comparisons that failed")
        hint = "Their `error` says why; mend the tier that `routing.shadow` uses."
        raise ConfigError("FILE", given, "comparisons of two answers", hint)
    if cheap is not None and tiers:
        allowed = f"a tier that records compare: {', '.join(tiers)}"
        raise ConfigError("--cheap", cheap, allowed)
    if cheap is not None:
        hint = "Leave it out for requests with needs_premium."
        raise ConfigError("--cheap", cheap, "left out where no record names tiers", hint)
    raise ConfigError("FILE", InWords("without records"), _ENOUGH, _MORE)


def _read_row(where: str, record: Mapping[str, Any], min_agreement: float) -> LabelledRow:
    label, agreed = record.get("needs_premium"), read_agreement(where, record)
    if label is None and agreed is None:
        given = InWords(f"a record with {', '.join(record) or 'nothing'}")
        raise ConfigError(where, given, "a record with needs_premium or agreement")
    if label is None and agreed is not None:
        return LabelledRow(_values_of(record, where), agreed < min_agreement, agreed)
    if not isinstance(label, bool):
        raise ConfigError(f"needs_premium of {where}", label, "true or false")
    return LabelledRow(_values_of(record, where), label)


def fit_route_model(rows: Sequence[LabelledRow], premium_share: float) -> RouteModel:
    """Raises: ConfigError for too few rows."""
    labels = [row.needs_premium for row in rows]
    _check_enough(rows, sum(labels))
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


def _check_enough(rows: Sequence[LabelledRow], num_yes: int) -> None:
    """Raises: ConfigError that says how many there are of each kind, and what would help."""
    num_no = len(rows) - num_yes
    if len(rows) >= MIN_ROWS and min(num_yes, num_no) >= MIN_OF_EACH:
        return
    kinds = f"of which {num_yes} need the premium tier and {num_no} do not"
    given = InWords(f"{len(rows)} records, {kinds}")
    hint, agreed = _MORE, sorted(row.agreement for row in rows if row.agreement is not None)
    if len(agreed) >= MIN_ROWS:
        low, high = agreed[MIN_OF_EACH - 1], agreed[-MIN_OF_EACH]
        hint = "Nearly all agree alike: compare more answers, or other tiers."
        if low < high:
            hint = f"A --min-agreement above {low:g} and up to {high:g} has enough of each."
    raise ConfigError("FILE", given, _ENOUGH, hint)


def threshold_for(scores: Sequence[float], premium_share: float) -> float:
    """The score above which lies at most the wanted share, and no less than ties allow."""
    ranked = sorted(scores, reverse=True)
    num_premium = math.floor(premium_share * len(ranked) + 1e-9)
    return ranked[num_premium] if num_premium < len(ranked) else 0.0


def _values_of(record: Mapping[str, Any], where: str) -> Mapping[str, float]:
    """Features of a record, or of the request that it has. Raises: ConfigError."""
    known = record.get("features")
    if isinstance(known, Mapping):
        missing = [name for name in FEATURES if not is_number(known.get(name))]
        if missing:
            given = InWords(f"without a number for {', '.join(missing)}")
            hint = "Records of `routing.shadow` have all; others give a prompt in their place."
            raise ConfigError(f"features of {where}", given, "all features, as numbers", hint)
        return {name: float(known[name]) for name in FEATURES}
    messages, prompt = record.get("messages"), record.get("prompt")
    if isinstance(prompt, str):
        messages = [{"role": "user", "content": prompt}]
    if not isinstance(messages, list) or not messages:
        given = InWords(f"a record with {', '.join(record)}")
        raise ConfigError(where, given, "a record with a prompt (a text), messages or features")
    turns = tuple(_read_turn(turn, where) for turn in messages)
    return feature_values(read_facts(GenerateRequest(request_id="", model="", messages=turns)))


def _read_turn(turn: object, where: str) -> Message:
    if isinstance(turn, Mapping):
        role, content = turn.get("role"), turn.get("content")
        if isinstance(role, str) and (content is None or isinstance(content, str)):
            return Message(role, content)
    raise ConfigError(f"messages of {where}", turn, "objects with a role and a content, texts")


def _useful(rows: Sequence[LabelledRow]) -> list[str]:
    """Features that differ between rows."""
    found = [name for name in FEATURES if len({row.values[name] for row in rows}) > 1]
    if not found:
        allowed = f"requests that differ in one of {', '.join(FEATURES)}"
        raise ConfigError("FILE", InWords(f"{len(rows)} records that are all alike"), allowed)
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
        seen = [index for place, index in enumerate(order) if place % NUM_FOLDS != fold]
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
