"""How far two answers agree.

In: two texts. Out: 0 to 1. Knows no meaning: `exact` is for labels and JSON, `words` for prose.
"""

from __future__ import annotations

import json
import re
from collections import Counter

from headrace.core.routing_options import Agreement

# Comparing is no reason to keep a thread busy.
MAX_CHARS = 200_000
_WORD = re.compile(r"\w+")


def agreement(one: str, other: str, metric: Agreement) -> float:
    """By the metric that was chosen; two empty answers agree."""
    if metric == "exact":
        return float(_same(one, other))
    return words_in_common(one[:MAX_CHARS], other[:MAX_CHARS])


def words_in_common(one: str, other: str) -> float:
    """F1 of words, each as often as it is there, whatever their order and case."""
    first, second = Counter(_WORD.findall(one.lower())), Counter(_WORD.findall(other.lower()))
    total = first.total() + second.total()
    return 1.0 if not total else 2 * (first & second).total() / total


def _same(one: str, other: str) -> bool:
    if " ".join(one.split()).casefold() == " ".join(other.split()).casefold():
        return True
    try:
        # As texts, for 1 is true in Python.
        values = [json.dumps(json.loads(text), sort_keys=True) for text in (one, other)]
    except (ValueError, RecursionError):
        return False
    return values[0] == values[1]
