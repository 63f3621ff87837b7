"""Merge rules of a SentencePiece BPE vocabulary, recovered from its pieces and their scores.

In: pieces with scores. Out: one merge per piece that merging can reach, best first.

SentencePiece merges the neighbouring pair whose joined piece scores best, leftmost on a tie. Inside
the span of a piece that came to be, merges happened in the order they would have in that piece
alone: at each step the best pair of the text, when it lies in the span, is the best of the span. So
the last merge that makes a piece is the same in every text, and the other ways to cut the piece
never occur. One merge per piece is therefore exact, and half as many as listing every cut.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

_NO_SCORE = float("-inf")


def sentencepiece_merges(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Merges in the order of their priority.

    `scores` holds the pieces that take part in merging, and no others.
    """
    ranked: list[tuple[float, str, str]] = []
    for piece, score in scores.items():
        cuts = [at for at in range(1, len(piece)) if piece[:at] in scores and piece[at:] in scores]
        if len(cuts) > 1:
            cut = _last_cut(piece, scores)
            cuts = [] if cut is None else [cut]
        if cuts:
            ranked.append((score, piece[: cuts[0]], piece[cuts[0] :]))
    ranked.sort(key=lambda merge: -merge[0])
    return [(left, right) for _, left, right in ranked]


def _last_cut(piece: str, scores: Mapping[str, float]) -> int | None:
    """Where the last merge of `piece` joins, or None when merging ends before the whole piece."""
    parts = list(piece)
    pair_scores = [scores.get(a + b, _NO_SCORE) for a, b in itertools.pairwise(parts)]
    while len(parts) > 2:
        best = max(pair_scores)
        if best == _NO_SCORE:
            return None
        at = pair_scores.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del pair_scores[at]
        if at:
            pair_scores[at - 1] = scores.get(parts[at - 1] + parts[at], _NO_SCORE)
        if at + 1 < len(parts):
            pair_scores[at] = scores.get(parts[at] + parts[at + 1], _NO_SCORE)
    return len(parts[0])
