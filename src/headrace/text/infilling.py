"""Filling in the middle: how a model is asked for what stands between two texts.

In: the texts, and a vocabulary. Out: pieces of a prompt, and what ends such an answer beside the
usual tokens. A model can do it when its vocabulary has the three marks of its family.
"""

from __future__ import annotations

from collections.abc import Callable

IdOf = Callable[[str], int | None]

# Before, after, and where the answer begins. Source: model cards of Qwen2.5-Coder and CodeGemma; of
# StarCoder, Granite and SantaCoder; of DeepSeek-Coder.
_MARKS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)
# Source: llama.cpp, llama-vocab.cpp, where they end a generation.
_ENDS = (
    *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>"),
    *("<fim_pad>", "<reponame>", "<file_sep>"),
)


def infill_pieces(before: str, after: str, id_of: IdOf) -> tuple[tuple[str, bool], ...] | None:
    """A prompt as `Tokenizer.encode_pieces` takes it; None for a model without such marks."""
    for marks in _MARKS:
        if all(id_of(mark) is not None for mark in marks):
            first, second, third = marks
            return (first, True), (before, False), (second, True), (after, False), (third, True)
    return None


def infill_end_ids(id_of: IdOf) -> frozenset[int]:
    """Tokens that say that the middle is over and another file would begin."""
    return frozenset(token_id for token_id in map(id_of, _ENDS) if token_id is not None)
