"""Which similarity the semantic cache may trust, measured on labelled pairs of questions.

In: pairs with `one`, `other` and `same`, an encoder. Out: for each threshold the share of pairs
that would get one answer, and how many of those wrongly. The checks of `read_marks` hold as they
do in the cache. The pairs that come along were written for this: 60 ways to ask the same and 119
near misses (another object, a negation, a number, a direction), in English and a few in German,
French and Spanish; real traffic is other, so measure on your own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.core.config import Config
from headrace.core.errors import ConfigError, InWords
from headrace.core.frozen import frozen
from headrace.launch.nearest_texts import NearestTexts, open_nearest_texts
from headrace.router.question_marks import read_marks
from headrace.router.shadow_log import read_records

BUILT_IN = Path(__file__).with_name("semantic_pairs.jsonl")
MIN_PAIRS = 20
THRESHOLDS = tuple(number / 100 for number in range(70, 100))
# Of the normal distribution, both sides.
Z_95 = 1.959964
SHOWN = (0.7, 0.75, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)


@frozen
class Pair:
    """Two questions; `is_same`: one answer does for both."""

    one: str
    other: str
    is_same: bool


def measure_pairs(
    config: Config, files: Sequence[Path], encoder: str, max_false_hits: float
) -> dict[str, Any]:
    """`is_shown`: the bound of the chosen one's false hits is at most `max_false_hits`.

    Raises: ConfigError for pairs that are none or too few, and what opening an encoder raises.
    """
    pairs = read_pairs(files or [BUILT_IN])
    texts = open_nearest_texts(config, encoder, "--encoder")
    try:
        found = [(similarity(texts, pair), pair.is_same) for pair in pairs]
    finally:
        texts.close()
    rows = [measure(found, threshold) for threshold in THRESHOLDS]
    # The lowest from which on all hold.
    good: Mapping[str, Any] | None = None
    for row in reversed(rows):
        if row["false_hit_rate"] > max_false_hits:
            break
        good = row if row["num_hits"] else good
    return {
        "encoder": encoder,
        "num_pairs": len(pairs),
        "num_same": sum(pair.is_same for pair in pairs),
        "max_false_hits": max_false_hits,
        "thresholds": [row for row in rows if row["min_similarity"] in SHOWN],
        "chosen": good,
        "is_shown": good is not None and good["false_hit_rate_95"] <= max_false_hits,
        "hits_needed": hits_needed(max_false_hits),
    }


def read_pairs(files: Sequence[Path]) -> list[Pair]:
    """Raises: ConfigError."""
    pairs = []
    for where, record in read_records(files):
        one, other, is_same = (record.get(name) for name in ("one", "other", "same"))
        if not isinstance(one, str) or not isinstance(other, str) or not isinstance(is_same, bool):
            given = InWords(f"a record with {', '.join(record) or 'nothing'}")
            allowed = "a record with one and other, texts, and same, true or false"
            raise ConfigError(where, given, allowed)
        pairs.append(Pair(one, other, is_same))
    if len(pairs) < MIN_PAIRS:
        given = InWords(f"a file with {len(pairs) or 'no'} pairs")
        hint = 'Label more: {"one": "...", "other": "...", "same": true} on each line.'
        raise ConfigError("FILE", given, f"at least {MIN_PAIRS} pairs", hint)
    return pairs


def similarity(texts: NearestTexts, pair: Pair) -> float:
    """The cosine of a pair; 0 where the cache would not compare them."""
    if not read_marks(pair.one).fits(read_marks(pair.other)):
        return 0.0
    return float(texts.encode(pair.one) @ texts.encode(pair.other))


def measure(found: Sequence[tuple[float, bool]], threshold: float) -> Mapping[str, Any]:
    """What a threshold lets through; the bound of false hits is Wilson's, of 95 percent."""
    hits = [is_same for cosine, is_same in found if cosine >= threshold]
    num_same = sum(is_same for _, is_same in found)
    num_false = len(hits) - sum(hits)
    return {
        "min_similarity": threshold,
        "num_hits": len(hits),
        "hit_rate": sum(hits) / num_same if num_same else 0.0,
        "num_false": num_false,
        "false_hit_rate": num_false / len(hits) if hits else 0.0,
        "false_hit_rate_95": _upper(num_false, len(hits)),
    }


def hits_needed(max_false_hits: float) -> int | None:
    """Hits, none of them false, whose bound is that low; None: no number shows a share of 0."""
    if not max_false_hits:
        return None
    return math.ceil(Z_95**2 * (1 - max_false_hits) / max_false_hits)


def _upper(num_false: int, num_hits: int) -> float:
    """The upper end of Wilson's interval of a share."""
    if not num_hits:
        return 1.0
    z, share = Z_95, num_false / num_hits
    middle = share + z * z / (2 * num_hits)
    spread = z * math.sqrt(share * (1 - share) / num_hits + (z / (2 * num_hits)) ** 2)
    return min(1.0, (middle + spread) / (1 + z * z / num_hits))
