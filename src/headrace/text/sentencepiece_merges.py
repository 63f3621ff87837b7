"""Merge rules of a SentencePiece BPE vocabulary, recovered from its pieces and their scores.

In: pieces with scores. Out: one merge per piece that merging can reach, best first.

SentencePiece merges the neighbouring pair whose joined piece scores best, leftmost on a tie. Inside
the span of a piece that came to be, merges happened in the order they would have in that piece
alone: at each step the best pair of the text, when it lies in the span, is the best of the span. So
the last merge that makes a piece is the same in every text, and the other ways to cut the piece
never occur. One merge per piece is therefore exact, and half as many as listing every cut.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.core.errors import ModelFileError

# Of the lengths of all pieces, some 20 ns each. The 262,144 of Gemma 3 come to 2^23.
_MAX_SQUARES = 1 << 28
_NO_SCORE = float("-inf")


def sentencepiece_merges(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Merges in the order of their priority.

    `scores` holds the pieces that take part in merging, and no others.
    Raises: ModelFileError for pieces so long that this would take minutes.
    """
    squares = sum(len(piece) ** 2 for piece in scores)
    if squares > _MAX_SQUARES:
        longest = max(map(len, scores))
        raise ModelFileError(
            f"tokenizer.ggml.tokens has pieces of up to {longest} characters, whose merges cannot "
            "be found in time. Use a Hugging Face folder with tokenizer.json for this model."
        )
    ranked: list[tuple[float, str, str]] = []
    for piece, score in scores.items():
        cut = _last_cut(piece, scores) if len(piece) > 1 else 0
        if cut and piece[:cut] in scores and piece[cut:] in scores:
            ranked.append((score, piece[:cut], piece[cut:]))
    ranked.sort(key=lambda merge: -merge[0])
    return [(left, right) for _, left, right in ranked]


def _last_cut(piece: str, scores: Mapping[str, float]) -> int:
    """Where the last merge of `piece` joins; 0 when merging ends before the whole piece."""
    bounds = list(range(len(piece) + 1))
    joined = [scores.get(piece[i : i + 2], _NO_SCORE) for i in range(len(piece) - 1)]
    while len(joined) > 1:  # joined[i] is the score of piece[bounds[i] : bounds[i + 2]]
        best = max(joined)
        if best == _NO_SCORE:
            return 0
        at = joined.index(best)
        del bounds[at + 1], joined[at]
        if at:
            joined[at - 1] = scores.get(piece[bounds[at - 1] : bounds[at + 1]], _NO_SCORE)
        if at < len(joined):
            joined[at] = scores.get(piece[bounds[at] : bounds[at + 2]], _NO_SCORE)
    return bounds[1]
