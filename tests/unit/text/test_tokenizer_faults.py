"""A tokenizer.json that the library cannot run is an error, and so is a text that it cannot cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.core.errors import ModelFileError, RequestError
from headrace.text.tokenizer import Tokenizer

_VOCAB = {"a": 0, "b": 1, "ab": 2}


def _write(folder: Path, model: dict[str, Any] | None = None, **parts: Any) -> Path:
    bpe = {"type": "BPE", "vocab": _VOCAB, "merges": []}
    empty = dict.fromkeys(
        ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    )
    file = {"version": "1.0", "added_tokens": [], **empty, **parts, "model": bpe | (model or {})}
    (folder / "tokenizer.json").write_text(json.dumps(file))
    return folder


def _template(*parts: str, **special: list[int]) -> dict[str, Any]:
    tokens = {
        name: {"id": name, "ids": ids, "tokens": [name] * len(ids)} for name, ids in special.items()
    }
    return {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": part, "type_id": 0}} for part in parts],
        "pair": [],
        "special_tokens": tokens,
    }


@pytest.mark.parametrize(
    "parts",
    [
        {"model": {"continuing_subword_prefix": "##########", "merges": [["a", "b"]]}},
        {"model": {"unk_token": "<nowhere>", "vocab": {"c": 0}}},
        {"model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"b": 0}, "merges": None}},
        {"post_processor": _template("B")},
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAAAAAAA="}},
    ],
)
def test_a_file_on_which_the_library_fails_is_named(parts: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"tokenizer\.json is not a tokenizer: ."):
        Tokenizer.from_huggingface(_write(tmp_path, **parts))


def _replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


@pytest.mark.parametrize(
    "steps",
    [
        [_replace("aa", String="a")] * 40,
        [_replace("a" * 1000, String="a")] * 4,
        [_replace("a" * 100, Regex="")] * 2,
    ],
)
def test_a_normalizer_that_blows_texts_up_is_refused(
    steps: list[dict[str, Any]], tmp_path: Path
) -> None:
    normalizer = {"type": "Sequence", "normalizers": steps}
    with pytest.raises(ModelFileError, match=r"normalizer makes texts .* times as long"):
        Tokenizer.from_huggingface(_write(tmp_path, normalizer=normalizer))


@pytest.mark.parametrize(
    "processor", [_template(*["A"] * 100_000), _template("A", a=[0] * 100_000)]
)
def test_a_template_of_very_many_parts_is_refused(
    processor: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match="post-processor puts 100000 parts together"):
        Tokenizer.from_huggingface(_write(tmp_path, post_processor=processor))


def test_texts_and_tokens_on_which_the_library_panics_are_the_callers(tmp_path: Path) -> None:
    pattern = {"Regex": "(b|b|bb)+$"}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    strip = {"type": "Strip", "content": "a", "start": 99_999, "stop": 99_999}
    tokenizer = Tokenizer.from_huggingface(_write(tmp_path, pre_tokenizer=split, decoder=strip))
    hard = "b" * 40 + "!"
    with pytest.raises(RequestError, match=r"fails on this text: .*retry-limit"):
        tokenizer.encode(hard)
    with pytest.raises(RequestError, match=r"fails on this text: .*retry-limit"):
        tokenizer.input_encoder.encode(["a", hard])
    assert tokenizer.encode("ab") == [0, 1]
    with pytest.raises(RequestError, match="fails on this text"):
        tokenizer.decode([0, 1, 0])
