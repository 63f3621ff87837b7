"""The tokenizer of a Hugging Face folder as the `tokenizer.*` keys of a GGUF file.

In: a folder. Out: keys that `gguf_vocabulary.py` and llama.cpp read. A vocabulary is byte-level BPE
or SentencePiece BPE; the scores of the second come back from the order of its merges. What the keys
make of some hard texts is compared with the folder's own tokenizer, and a difference is refused: a
wrong split gives wrong tokens silently.
Source: llama.cpp, gguf-py/gguf/vocab.py and convert_hf_to_gguf.py, get_vocab_base.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.core.frozen import frozen
from headrace.text.gguf_vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from headrace.text.pre_tokenizers import PRE_TOKENIZERS
from headrace.text.token_bytes import BYTE_PIECES
from headrace.text.tokenizer import Tokenizer, open_tokenizer_json
from headrace.text.tokenizer_facts import END_TOKEN_NAMES, TokenizerFacts, folder_facts

Key = str | bool | int | Sequence[str] | Sequence[int] | Sequence[float]

PROBES = (
    "Hello world, it's  a   test:\t1, 12, 123, 1234 and 1234567.89!",
    "We'LL SEE I'M here; they're, you'd; don't. camelCase snake_case HTTPServer x86_64",
    "def f(a_b):\n\n    return {'k': [1,2]}  # done\r\n\r\n\n \n  end   ",
    "naïve café Größe Ünïcödé e\u0301 ﬁne ½ ² Ⅷ",
    "你好，世界！これはテストです。한국어 привет мир שלום مرحبا नमस्ते ๑๒๓",
    "😀👩‍👩‍👧 ∑∫√ ← → €100 £5 №7 ...---=== <tag/> $x^2$ ~~ `q`",
    " leading", "trailing ", "\n", "  ", "a", "", "▁x ▁▁ y", "<s>", "a\u00a0b\u2003c",
)  # fmt: skip
"""Texts on which families differ: contractions, digits, marks, spaces, scripts, symbols."""


@frozen
class TokenizerKeys:
    """Keys of a file, and what they cannot say, in words for people."""

    keys: Mapping[str, Key]
    notes: tuple[str, ...] = ()


def tokenizer_keys(folder: Path, vocab_size: int) -> TokenizerKeys:
    """The keys of the folder's tokenizer, with a token for each of `vocab_size` ids.

    Raises: ModelFileError; UnsupportedFormat for a tokenizer that GGUF has no words for.
    """
    backend = open_tokenizer_json(folder)
    model = json.loads(backend.to_str())["model"]
    facts = folder_facts(folder)
    own = Tokenizer(backend, facts)
    tokens = _tokens(folder, backend, vocab_size)
    keys: dict[str, Key] = {"tokenizer.ggml.tokens": tokens}
    if model.get("type") == "BPE" and _is_byte_level(backend):
        keys |= _byte_level_keys(folder, backend, model)
        types = _types(backend, tokens, None)
    elif model.get("type") == "BPE" and model.get("byte_fallback"):
        merges = _pairs(model)
        keys |= {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.scores": _scores(tokens, merges),
            "tokenizer.ggml.add_space_prefix": _adds_space(backend),
        }
        types = _types(backend, tokens, model.get("unk_token"))
    else:
        raise UnsupportedFormat(
            f"{folder / 'tokenizer.json'} is a {model.get('type')} vocabulary; GGUF files of "
            "headrace hold byte-level BPE and SentencePiece BPE with bytes to fall back on."
        )
    keys["tokenizer.ggml.token_type"] = types
    keys |= _special_keys(own, facts)
    again = _check(folder, own, keys)
    return TokenizerKeys(keys, (*_notes(backend), *_lost_ends(own, again)))


def _tokens(folder: Path, backend: Backend, vocab_size: int) -> list[str]:
    """A token per id; ids that stand for nothing get names of their own."""
    by_id = {token_id: token for token, token_id in backend.get_vocab(True).items()}
    if by_id and max(by_id) >= vocab_size:
        raise ModelFileError(
            f"{folder / 'tokenizer.json'} has the id {max(by_id)}, and the model has {vocab_size} "
            "tokens. The tokenizer belongs to another model."
        )
    return [by_id.get(token_id, f"[PAD{token_id}]") for token_id in range(vocab_size)]


def _types(backend: Backend, tokens: Sequence[str], unknown: str | None) -> list[int]:
    """`unknown` is the token of a SentencePiece vocabulary; only that has pieces for bytes."""
    added = backend.get_added_tokens_decoder()
    used = frozenset(backend.get_vocab(True).values())
    is_sentencepiece = not _is_byte_level(backend)
    types = []
    for token_id, token in enumerate(tokens):
        if token_id not in used:
            types.append(UNUSED)
        elif is_sentencepiece and token == unknown:
            types.append(UNKNOWN)
        elif token_id in added:
            types.append(CONTROL if added[token_id].special else USER_DEFINED)
        elif is_sentencepiece and token in _BYTE_NAMES:
            types.append(BYTE)
        else:
            types.append(NORMAL)
    return types


_BYTE_NAMES = frozenset(piece for piece in BYTE_PIECES if len(piece) > 1)


def _is_byte_level(backend: Backend) -> bool:
    decoder = json.loads(backend.decoder.__getstate__()) if backend.decoder else {}
    parts = decoder.get("decoders", [decoder])
    return any(part.get("type") == "ByteLevel" for part in parts)


def _pairs(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Merges in order; older files join the two pieces with a space."""
    found = []
    for merge in model.get("merges", ()):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        found.append((left, right))
    return found


def _byte_level_keys(folder: Path, backend: Backend, model: Mapping[str, Any]) -> dict[str, Key]:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _pre_tokenizer_name(folder, backend, bool(model["ignore_merges"])),
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in _pairs(model)],
    }


def _pre_tokenizer_name(folder: Path, backend: Backend, keeps_whole_words: bool) -> str:
    """The family that cuts every probe as the folder does. Raises: UnsupportedFormat."""
    wanted = [_words(backend.normalizer, backend.pre_tokenizer, probe) for probe in PROBES]
    for name, rule in PRE_TOKENIZERS.items():
        if name == "default" or rule.keeps_whole_words != keeps_whole_words:
            continue
        normalizer, splits = rule.normalizer(), rule.pre_tokenizer()
        if wanted == [_words(normalizer, splits, probe) for probe in PROBES]:
            return name
    raise UnsupportedFormat(
        f"{folder / 'tokenizer.json'} cuts words as no family that headrace knows the GGUF name "
        f"of: {', '.join(sorted(set(PRE_TOKENIZERS) - {'default'}))}."
    )


def _words(normalizer: Any, pre_tokenizer: Any, text: str) -> list[str]:
    normal = text if normalizer is None else normalizer.normalize_str(text)
    return [word for word, _ in pre_tokenizer.pre_tokenize_str(normal)] if pre_tokenizer else []


def _scores(tokens: Sequence[str], merges: Sequence[tuple[str, str]]) -> list[float]:
    """Scores that give the merges their order: the sooner a piece is made, the higher."""
    order: dict[str, int] = {}
    for left, right in merges:
        order.setdefault(left + right, len(order))
    return [-float(order.get(token, len(order))) for token in tokens]


def _adds_space(backend: Backend) -> bool:
    pieces = backend.encode("a", add_special_tokens=False).tokens
    return bool(pieces) and str(pieces[0]).startswith("▁")


def _special_keys(own: Tokenizer, facts: TokenizerFacts) -> dict[str, Key]:
    """Which tokens begin, end and fill, and the chat template."""
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {
        key: own.id_of(facts.special_tokens[f"{name}_token"])
        for name, key in names.items()
        if f"{name}_token" in facts.special_tokens
    }
    more = [i for i in sorted(facts.end_ids) if i != ids.get("eos") and not _ends_by_name(own, i)]
    if ids.get("eos") is None and facts.end_ids:
        ids["eos"] = min(facts.end_ids)
        more = [token_id for token_id in more if token_id != ids["eos"]]
    empty = own.encode("")
    last = empty[-1] if len(empty) > own.adds_bos else None
    eos = ids.get("eos")
    if last is not None and eos is not None and eos != last:
        # A text ends with another token than an answer (Qwen3-Embedding); GGUF has one for both.
        more = [i for i in (eos, *more) if i != last and not _ends_by_name(own, i)]
        ids["eos"] = last
    ids |= dict(zip(("eot", "eom"), more, strict=False))
    found: dict[str, Key] = {
        f"tokenizer.ggml.{key}_token_id": i for key, i in ids.items() if i is not None
    }
    found["tokenizer.ggml.add_bos_token"] = own.adds_bos
    found["tokenizer.ggml.add_eos_token"] = last is not None and last == ids.get("eos")
    if facts.chat_template is not None:
        found["tokenizer.chat_template"] = facts.chat_template
    return found


def _ends_by_name(own: Tokenizer, token_id: int) -> bool:
    """Whether readers of GGUF know by its name that the token ends an answer."""
    return any(own.id_of(name) == token_id for name in END_TOKEN_NAMES)


def _check(folder: Path, own: Tokenizer, keys: Mapping[str, Key]) -> Tokenizer:
    """What readers of the keys have. Raises: UnsupportedFormat where it cuts a probe otherwise."""
    again = Tokenizer.from_gguf(keys)
    for probe in PROBES:
        if own.encode(probe) != again.encode(probe):
            raise UnsupportedFormat(
                f"{folder / 'tokenizer.json'} makes {own.encode(probe)} of {probe!r}, and as GGUF "
                f"it would make {again.encode(probe)}: it has a rule that GGUF has no key for."
            )
    return again


def _lost_ends(own: Tokenizer, again: Tokenizer) -> tuple[str, ...]:
    """A file has room for three tokens that end an answer, beside those that are known by name."""
    lost = sorted(own.eos_token_ids - again.eos_token_ids)
    if not lost:
        return ()
    return (
        f"{len(lost)} tokens that end an answer ({own.decode(lost[:1])!r}, id {lost[0]}) have no "
        "key in GGUF: give them as stop_token_ids.",
    )


def _notes(backend: Backend) -> tuple[str, ...]:
    added = backend.get_added_tokens_decoder().values()
    greedy = [token.content for token in added if token.lstrip or token.rstrip]
    if not greedy:
        return ()
    return (
        f"{len(greedy)} tokens such as {greedy[0]!r} take the spaces beside them in "
        "tokenizer.json, which GGUF cannot say; texts with spaces there give other tokens.",
    )
