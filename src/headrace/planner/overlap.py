"""How alike two texts are: words in common, in order or as sets.

In: texts. Out: 0 to 1. Words are folded in case; of scripts without spaces each character is one.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

_SPACELESS = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+")


def words(text: str) -> list[str]:
    """Words without punctuation."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def normalized(text: str) -> str:
    """Words with single spaces: two texts with the same are taken as equal."""
    return " ".join(words(text))


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence of words.

    Source: Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries, section 3 (beta 1).
    """
    a, b = words(answer), words(reference)
    common = _longest_common(a, b)
    return 2 * common / (len(a) + len(b)) if a or b else 1.0


def word_f1(answer: str, reference: str) -> float:
    """F1 of the words in common, in any order, counted as often as they come."""
    return _f1(words(answer), words(reference))


def set_f1(answer: Iterable[str], reference: Iterable[str]) -> float:
    """F1 of two sets of phrases."""
    return _f1(sorted({normalized(text) for text in answer} - {""}),
               sorted({normalized(text) for text in reference} - {""}))  # fmt: skip


def _f1(a: Sequence[str], b: Sequence[str]) -> float:
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if a or b else 1.0


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence; a bit vector over `b`, a step per word of `a`.

    Source: Hyyrö 2004, Bit-parallel LCS-length computation revisited, figure 2.
    """
    places: dict[str, int] = {}
    for index, word in enumerate(b):
        places[word] = places.get(word, 0) | 1 << index
    full = (1 << len(b)) - 1
    vector = full
    for word in a:
        matched = vector & places.get(word, 0)
        vector = ((vector + matched) | (vector - matched)) & full
    return len(b) - vector.bit_count()
