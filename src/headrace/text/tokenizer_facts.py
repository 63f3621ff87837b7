"""What a model's files say about its tokenizer beside the vocabulary and the merges.

In: GGUF fields, or the JSON files of a Hugging Face folder. Out: TokenizerFacts. Decides which
tokens end an answer. Builds no tokenizer and reads no text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headrace.core.errors import ModelFileError
from headrace.core.frozen import frozen
from headrace.text.gguf_vocabulary import GgufVocabulary

# Tokens that end a turn or a text in some model family (llama.cpp, llama-vocab.cpp). Files often
# name only one of a model's two; the names are unambiguous as control tokens.
END_TOKEN_NAMES = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
)
# In the harmony format <|end|> only closes one message of several.
_HARMONY_ENDS = ("<|return|>", "<|call|>")

IdOf = Callable[[str], int | None]


@frozen
class TokenizerFacts:
    """Facts by token text; ids are looked up in the tokenizer.

    Fields:
        special_tokens: template variable (bos_token, eos_token, ...) -> text.
        end_ids: given by the files. is_end_complete: no other token ends an answer.
        vocab_size: 0 when the tokenizer itself is the authority.
    """

    special_tokens: Mapping[str, str]
    end_ids: frozenset[int] = frozenset()
    is_end_complete: bool = False
    chat_template: str | None = None
    vocab_size: int = 0


def facts_as_json(facts: TokenizerFacts) -> dict[str, Any]:
    """What `facts_from_json` reads; equal facts give equal JSON."""
    return {**asdict(facts), "end_ids": sorted(facts.end_ids)}


def facts_from_json(value: dict[str, Any]) -> TokenizerFacts:
    """Raises: TypeError for keys or values of another kind."""
    facts = TokenizerFacts(**{**value, "end_ids": frozenset(value["end_ids"])})
    if not isinstance(facts.special_tokens, dict) or not isinstance(facts.vocab_size, int):
        raise TypeError("not the facts of a tokenizer")
    return facts


def gguf_facts(vocabulary: GgufVocabulary) -> TokenizerFacts:
    """Facts of a GGUF file; touches single tokens only."""
    ids = vocabulary.special_ids
    ends = {ids[name] for name in ("eos_token", "eot_token", "eom_token") if name in ids}
    return TokenizerFacts(
        special_tokens={name: vocabulary.tokens[token_id] for name, token_id in ids.items()},
        end_ids=frozenset(ends),
        chat_template=vocabulary.chat_template,
        vocab_size=len(vocabulary.tokens),
    )


def folder_facts(folder: Path) -> TokenizerFacts:
    """Facts of a Hugging Face folder. Only tokenizer.json is required of it, by the tokenizer.

    Raises: ModelFileError for a file that is not valid JSON.
    """
    config = _read_json(folder / "tokenizer_config.json")
    special = {**_texts(_read_json(folder / "special_tokens_map.json")), **_texts(config)}
    ends: frozenset[int] = frozenset()
    for name in ("generation_config.json", "config.json"):
        ends = ends or _ids(_read_json(folder / name).get("eos_token_id"))
    return TokenizerFacts(
        special_tokens=special,
        end_ids=ends,
        is_end_complete=bool(ends),
        chat_template=_chat_template(folder, config),
    )


def end_token_ids(
    facts: TokenizerFacts, id_of: IdOf, control_ids: frozenset[int]
) -> frozenset[int]:
    """Every token that ends an answer."""
    ends = set(facts.end_ids)
    eos_token = facts.special_tokens.get("eos_token")
    eos_id = None if eos_token is None else id_of(eos_token)
    if eos_id is not None:
        ends.add(eos_id)
    if not facts.is_end_complete:
        names = list(END_TOKEN_NAMES)
        if all(id_of(name) in control_ids for name in _HARMONY_ENDS):
            names.remove("<|end|>")
        ends.update(i for i in map(id_of, names) if i is not None and i in control_ids)
    return frozenset(ends)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{path} holds a {type(value).__name__}; expected a JSON object.")
    return value


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by name. A token is its text, or an object with `content`."""
    texts: dict[str, str] = {}
    for name, value in values.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            texts[name] = text
    return texts


def _ids(value: object) -> frozenset[int]:
    values = value if isinstance(value, list) else [value]
    return frozenset(v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0)


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ModelFileError(f"{path} is not UTF-8 text: {error}.") from error
    template = config.get("chat_template")
    if isinstance(template, list):  # several named ones; "default" is for chat
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
