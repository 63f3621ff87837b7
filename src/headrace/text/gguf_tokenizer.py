"""GgufVocabulary -> a Hugging Face tokenizer that gives the tokens its model was trained on.

Two kinds. "gpt2" is byte-level BPE: the file has the merges, `pre` says how words are cut. "llama"
is SentencePiece BPE: spaces become ▁, merges come from scores, unknown characters fall back to
bytes. In both, CONTROL pieces become special added tokens and USER_DEFINED pieces plain ones, which
match in any text before merging, as SentencePiece and llama.cpp have it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from headrace.core.errors import ModelFileError
from headrace.text.gguf_vocabulary import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    GgufVocabulary,
)
from headrace.text.sentencepiece_merges import sentencepiece_merges
from headrace.text.token_bytes import byte_piece

SPACE_PIECE = "▁"


def build_gguf_tokenizer(vocabulary: GgufVocabulary) -> Tokenizer:
    """Build the tokenizer. Seconds for a large SentencePiece vocabulary; cache the result.

    Raises: ModelFileError.
    """
    ids = _token_ids(vocabulary)
    if vocabulary.kind == "gpt2":
        tokenizer = _byte_level(vocabulary, ids)
    else:
        tokenizer = _sentencepiece(vocabulary, ids)
    _add_tokens(tokenizer, vocabulary)
    _add_bos_and_eos(tokenizer, vocabulary)
    return tokenizer


def _token_ids(vocabulary: GgufVocabulary) -> dict[str, int]:
    ids: dict[str, int] = {}
    for token_id, token in enumerate(vocabulary.tokens):
        if vocabulary.type_of(token_id) == UNUSED:
            continue
        if ids.setdefault(token, token_id) != token_id:
            raise ModelFileError(
                f"tokenizer.ggml.tokens has {token!r} twice, as {ids[token]} and {token_id}."
            )
    return ids


def _byte_level(vocabulary: GgufVocabulary, ids: dict[str, int]) -> Tokenizer:
    if not vocabulary.merges:
        raise ModelFileError("tokenizer.ggml.merges is missing; a gpt2 vocabulary needs it.")
    merges: list[tuple[str, str]] = []
    for merge in vocabulary.merges:
        left, _, right = merge.partition(" ")
        if left not in ids or right not in ids or left + right not in ids:
            raise ModelFileError(
                f"tokenizer.ggml.merges has {merge!r}; "
                "expected two tokens of the vocabulary whose join is one too."
            )
        merges.append((left, right))
    rule = vocabulary.rule
    if rule is None:
        raise ModelFileError("a gpt2 vocabulary needs a pre-tokenizer")
    model = models.BPE(vocab=ids, merges=merges, ignore_merges=rule.keeps_whole_words)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = rule.normalizer()
    tokenizer.pre_tokenizer = rule.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(vocabulary: GgufVocabulary, ids: dict[str, int]) -> Tokenizer:
    if not vocabulary.scores:
        raise ModelFileError("tokenizer.ggml.scores is missing; a llama vocabulary needs it.")
    scores = {
        token: vocabulary.scores[token_id]
        for token, token_id in ids.items()
        if vocabulary.type_of(token_id) == NORMAL
    }
    unknown_id = vocabulary.special_ids.get("unk_token", _first_of_type(vocabulary, UNKNOWN))
    model = models.BPE(
        vocab=ids,
        merges=sentencepiece_merges(scores),
        unk_token=None if unknown_id is None else vocabulary.tokens[unknown_id],
        fuse_unk=True,
        byte_fallback=all(byte_piece(byte) in ids for byte in range(256)),
    )
    tokenizer = Tokenizer(model)
    escape = normalizers.Replace(" ", SPACE_PIECE)
    decoder = [decoders.Replace(SPACE_PIECE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if vocabulary.adds_space_prefix:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE_PIECE), escape])
        tokenizer.decoder = decoders.Sequence([*decoder, decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.normalizer = escape
        tokenizer.decoder = decoders.Sequence(decoder)
    return tokenizer


def _first_of_type(vocabulary: GgufVocabulary, token_type: int) -> int | None:
    of_type = (i for i in range(len(vocabulary.tokens)) if vocabulary.type_of(i) == token_type)
    return next(of_type, None)


def _add_tokens(tokenizer: Tokenizer, vocabulary: GgufVocabulary) -> None:
    """Make control and user-defined pieces match as a whole.

    A user-defined piece of a SentencePiece vocabulary matches the escaped text, in which a typed ▁
    and a space are one; a prefix space would be added to the piece too, so there it matches as is.
    """
    is_normalized = vocabulary.kind == "llama" and not vocabulary.adds_space_prefix
    special: list[AddedToken] = []
    plain: list[AddedToken] = []
    for token_id, token in enumerate(vocabulary.tokens):
        token_type = vocabulary.type_of(token_id)
        if not token:
            continue
        if token_type in (CONTROL, UNKNOWN):
            special.append(AddedToken(token, normalized=False, special=True))
        elif token_type == USER_DEFINED:
            plain.append(AddedToken(token, normalized=is_normalized, special=False))
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)


def _add_bos_and_eos(tokenizer: Tokenizer, vocabulary: GgufVocabulary) -> None:
    bos_id = vocabulary.special_ids.get("bos_token") if vocabulary.adds_bos else None
    eos_id = vocabulary.special_ids.get("eos_token") if vocabulary.adds_eos else None
    ends: Sequence[int] = [i for i in (bos_id, eos_id) if i is not None]
    if not ends:
        return
    names = {token_id: f"<{token_id}>" for token_id in ends}
    template = [
        *([f"{names[bos_id]}:0"] if bos_id is not None else []),
        "$A:0",
        *([f"{names[eos_id]}:0"] if eos_id is not None else []),
    ]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(names[token_id], token_id) for token_id in names]
    )
