"""What a name that nobody knows may have been meant to be.

In: the name, those there are. Out: near ones, and the sentence that errors end with. Knows nothing
of settings or models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher

LEAST_LIKENESS = 0.6
# Of three letters, two are alike in words that have nothing to do with each other.
_OF_THREE_LETTERS = 0.7
# Beside the nearest one only those that are nearly as near.
NEXT_TO_NEAREST = 0.1
# Of names that differ in numbers alone, as sizes of a model do, and of a part of a name.
_OTHER_NUMBERS = 0.7
_LEAST_PART = 4


def near_names(name: str, known: Iterable[str], most: int = 3) -> tuple[str, ...]:
    """The nearest names, and none that only begin alike: `engine.a` is not near `engine.b`."""
    found = sorted(((_likeness(name, word), word) for word in known), key=lambda pair: -pair[0])
    of_length = _OF_THREE_LETTERS if len(name) <= 3 else LEAST_LIKENESS
    least = max([of_length, *(likeness - NEXT_TO_NEAREST for likeness, _ in found[:1])])
    return tuple(word for likeness, word in found[:most] if likeness >= least)


def did_you_mean(name: object, known: Iterable[str], most: int = 3) -> str:
    """A question with the near names; empty where there are none."""
    near = near_names(str(name), known, most)
    return f"Did you mean {' or '.join(near)}?" if near else ""


def _likeness(name: str, word: str) -> float:
    """From 0 to 1, of what follows the words that both begin with."""
    ours, theirs = _words(name), _words(word)
    while len(ours) > 1 and len(theirs) > 1 and ours[0] == theirs[0]:
        del ours[0], theirs[0]
    rests = ["".join(ours), "".join(theirs)]
    our_form, their_form = (re.sub(r"\d+(\.\d+)*", "#", rest) for rest in rests)
    is_part = len(rests[0]) >= _LEAST_PART and rests[0] in rests[1]
    least = _OTHER_NUMBERS if our_form == their_form or is_part else 0.0
    return max(least, SequenceMatcher(None, rests[0], rests[1]).ratio())


def _words(name: str) -> list[str]:
    """With what separates them."""
    return re.findall(r"[^._:/-]*[._:/-]|[^._:/-]+", name.lower())
