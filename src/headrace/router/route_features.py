"""Cheap facts of a request as numbers, for a learned choice between tiers.

In: RequestFacts. Out: a number for each name. The names are in files of models and in records: a
new one gets a new name, and no name changes its meaning. Says nothing of what a text is about, and
no text can be read from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from headrace.router.features import RequestFacts

_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+")
# Words with which people ask for more than a fact.
_REASONING_TEXT = (
    "why how explain prove derive compare analyse analyze design implement debug optimize refactor "
    "calculate solve reason step steps because consequence warum erkläre beweise vergleiche "
    "pourquoi explique prouve compare calcule porqué explica demuestra calcula"
)
_SIMPLE_TEXT = (
    "classify categorize label category yes no true false translate capital define list name which "
    "when where who klassifiziere nenne übersetze traduis traduce"
)
_REASONING = frozenset(_REASONING_TEXT.split())
_SIMPLE = frozenset(_SIMPLE_TEXT.split())


def _words(facts: RequestFacts) -> list[str]:
    return _WORD.findall(facts.text.lower())


def _share(facts: RequestFacts, known: frozenset[str]) -> float:
    words = _words(facts)
    return sum(word in known for word in words) / len(words) if words else 0.0


def _word_length(facts: RequestFacts) -> float:
    words = _words(facts)
    return sum(map(len, words)) / len(words) if words else 0.0


FEATURES: Mapping[str, Callable[[RequestFacts], float]] = {
    "log_input_tokens": lambda facts: math.log1p(facts.num_input_tokens),
    "log_text_chars": lambda facts: math.log1p(len(facts.text)),
    "log_messages": lambda facts: math.log1p(facts.num_messages),
    "has_tools": lambda facts: float(facts.has_tools),
    "has_form": lambda facts: float(facts.has_form),
    "has_code": lambda facts: float(facts.has_code),
    "is_english": lambda facts: float("en" in facts.languages),
    "num_questions": lambda facts: math.log1p(facts.text.count("?")),
    "num_lines": lambda facts: math.log1p(facts.text.count("\n")),
    "num_numbers": lambda facts: math.log1p(len(_NUMBER.findall(facts.text))),
    "word_length": _word_length,
    "reasoning_words": lambda facts: _share(facts, _REASONING),
    "simple_words": lambda facts: _share(facts, _SIMPLE),
}


def feature_values(facts: RequestFacts) -> dict[str, float]:
    """All features of a request, by name."""
    return {name: round(value(facts), 6) for name, value in FEATURES.items()}
