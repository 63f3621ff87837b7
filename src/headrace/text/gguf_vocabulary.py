"""The tokenizer part of a GGUF file's metadata, checked.

In: the metadata mapping. Out: GgufVocabulary, with typed fields and llama.cpp's defaults. Knows the
key names and their limits; builds nothing. Big arrays stay sequences of the reader, so that a start
that finds a built tokenizer in the cache touches none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.core.frozen import frozen
from headrace.text.pre_tokenizers import PRE_TOKENIZERS, PreTokenizerRule

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SUPPORTED_KINDS = ("gpt2", "llama")

_SPECIAL_ID_KEYS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "eot_token": "eot_token_id",
    "eom_token": "eom_token_id",
}


@frozen
class GgufVocabulary:
    """`tokenizer.*` of a GGUF file.

    Fields:
        kind: "gpt2" is byte-level BPE, "llama" is SentencePiece BPE.
        token_types, scores, merges: empty when the file has none.
        special_ids: such as bos_token -> 151643; only ids inside the vocabulary.
        rule: how a byte-level vocabulary splits text; None for SentencePiece.
    """

    kind: str
    tokens: Sequence[str]
    token_types: Sequence[int]
    scores: Sequence[float]
    merges: Sequence[str]
    special_ids: Mapping[str, int]
    rule: PreTokenizerRule | None
    adds_bos: bool
    adds_eos: bool
    adds_space_prefix: bool
    chat_template: str | None

    def type_of(self, token_id: int) -> int:
        return self.token_types[token_id] if self.token_types else NORMAL


def read_gguf_vocabulary(metadata: Mapping[str, object]) -> GgufVocabulary:
    """Pick and check the tokenizer keys.

    Raises: UnsupportedFormat for a kind or pre-tokenizer that is not known; ModelFileError.
    """
    kind = _field(metadata, "tokenizer.ggml.model", str, None)
    if kind is None:
        raise ModelFileError(
            "The GGUF file has no tokenizer (no tokenizer.ggml.model). "
            "Use a GGUF file of a text model, converted with its vocabulary."
        )
    if kind not in SUPPORTED_KINDS:
        raise UnsupportedFormat(
            f"tokenizer.ggml.model is {kind!r}; supported: {', '.join(SUPPORTED_KINDS)}. "
            "Use a Hugging Face folder with tokenizer.json for this model."
        )
    tokens = _array(metadata, "tokens", str)
    if not tokens:
        raise ModelFileError("tokenizer.ggml.tokens is empty; a tokenizer needs its vocabulary.")
    rule = _pre_tokenizer_rule(metadata) if kind == "gpt2" else None
    return GgufVocabulary(
        kind=kind,
        tokens=tokens,
        token_types=_array(metadata, "token_type", int, len(tokens)),
        scores=_array(metadata, "scores", float, len(tokens)),
        merges=_array(metadata, "merges", str),
        special_ids=_special_ids(metadata, len(tokens)),
        rule=rule,
        adds_bos=_flag(metadata, "add_bos_token", rule.adds_bos if rule else True),
        adds_eos=_flag(metadata, "add_eos_token", False),
        adds_space_prefix=_flag(metadata, "add_space_prefix", kind == "llama"),
        chat_template=_field(metadata, "tokenizer.chat_template", str, None),
    )


def _pre_tokenizer_rule(metadata: Mapping[str, object]) -> PreTokenizerRule:
    name = _field(metadata, "tokenizer.ggml.pre", str, "default")
    if name not in PRE_TOKENIZERS:
        raise UnsupportedFormat(
            f"tokenizer.ggml.pre is {name!r}; supported: {', '.join(sorted(PRE_TOKENIZERS))}. "
            "Use a Hugging Face folder with tokenizer.json for this model."
        )
    return PRE_TOKENIZERS[name]


def _special_ids(metadata: Mapping[str, object], vocab_size: int) -> dict[str, int]:
    ids: dict[str, int] = {}
    for name, key in _SPECIAL_ID_KEYS.items():
        token_id = _field(metadata, f"tokenizer.ggml.{key}", int, None)
        if token_id is None:
            continue
        if not 0 <= token_id < vocab_size:
            raise ModelFileError(
                f"tokenizer.ggml.{key} is {token_id}; allowed: 0 to {vocab_size - 1}, "
                "the ids of the vocabulary."
            )
        ids[name] = token_id
    return ids


def _flag(metadata: Mapping[str, object], name: str, default: bool) -> bool:
    value = _field(metadata, f"tokenizer.ggml.{name}", bool, default)
    return bool(value)


def _field(metadata: Mapping[str, object], key: str, kind: type, default: Any) -> Any:
    value = metadata.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ModelFileError(
            f"{key} is of type {type(value).__name__}; expected {kind.__name__}. "
            "The file is damaged or was converted wrongly."
        )
    return value


def _array(
    metadata: Mapping[str, object], name: str, kind: type, min_length: int = 0
) -> Sequence[Any]:
    key = f"tokenizer.ggml.{name}"
    value = metadata.get(key)
    if value is None:
        return ()
    numbers: tuple[type, ...] = (int, float) if kind is float else (kind,)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ModelFileError(f"{key} is of type {type(value).__name__}; expected an array.")
    if len(value) < min_length:
        raise ModelFileError(f"{key} has {len(value)} entries; the vocabulary has {min_length}.")
    if len(value) and not isinstance(value[0], numbers):
        raise ModelFileError(
            f"{key} holds {type(value[0]).__name__}; expected {kind.__name__} values."
        )
    return value
