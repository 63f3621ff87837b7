"""What a folder says about the vectors that it makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.weights.sentence_config import (
    SentenceConfig,
    language_model_sentence,
    read_sentence_config,
)
from oracle.tiny_encoders import save_sentence_parts


def test_a_bare_folder_gives_the_mean(tmp_path: Path) -> None:
    assert read_sentence_config(tmp_path) == SentenceConfig("mean", is_normalized=False)


@pytest.mark.parametrize(
    ("key", "pooling"),
    [
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_lasttoken", "last"),
    ],
)
def test_the_whole_folder(tmp_path: Path, key: str, pooling: str) -> None:
    save_sentence_parts(tmp_path, key, max_seq_length=40)
    config = read_sentence_config(tmp_path)
    assert (config.pooling, config.is_normalized, config.max_seq_length) == (pooling, True, 40)
    assert config.prompts == {"query": "the query. "} and config.default_prompt_name is None


def test_the_newer_spelling_of_pooling(tmp_path: Path) -> None:
    save_sentence_parts(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    assert read_sentence_config(tmp_path).pooling == "cls"


def change(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


@pytest.mark.parametrize(
    ("name", "value", "error", "said"),
    [
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, UnsupportedFormat, "max_t"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            UnsupportedFormat,
            "cls_token",
        ),
        ("1_Pooling/config.json", {"pooling_mode": "max"}, UnsupportedFormat, "other"),
        ("1_Pooling/config.json", "{", ModelFileError, "not JSON"),
        ("1_Pooling/config.json", [], ModelFileError, "how to pool"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_mean_tokens": True, "include_prompt": False},
            UnsupportedFormat,
            "include_prompt",
        ),
        ("modules.json", ["Pooling"], ModelFileError, "objects"),
        ("modules.json", [{"type": "x.Dense", "path": "2_Dense"}], UnsupportedFormat, "Dense"),
        ("modules.json", [{"type": "x.Pooling", "path": "../up"}], ModelFileError, "folder"),
        ("modules.json", [{"type": "x.Pooling", "path": "/etc"}], ModelFileError, "folder"),
        ("modules.json", [{"type": "x.Pooling"}], ModelFileError, "folder"),
    ],
)
def test_what_is_not_understood_is_refused(
    tmp_path: Path, name: str, value: Any, error: type[Exception], said: str
) -> None:
    save_sentence_parts(tmp_path)
    change(tmp_path, name, value)
    with pytest.raises(error, match=said):
        read_sentence_config(tmp_path)


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta"])
def test_what_is_said_of_the_texts(tmp_path: Path, kind: str) -> None:
    change(tmp_path, f"sentence_{kind}_config.json", {"max_seq_length": 9, "do_lower_case": True})
    config = read_sentence_config(tmp_path)
    assert (config.max_seq_length, config.is_lowered) == (9, True)


def test_language_models_give_the_last_state(tmp_path: Path) -> None:
    assert language_model_sentence(tmp_path / "model.gguf").pooling == "last"
    assert language_model_sentence(tmp_path).pooling == "last"
    save_sentence_parts(tmp_path, "pooling_mode_cls_token")
    assert language_model_sentence(tmp_path).pooling == "cls"
    change(tmp_path, "sentence_bert_config.json", {"do_lower_case": True})
    with pytest.raises(UnsupportedFormat, match="do_lower_case"):
        language_model_sentence(tmp_path)
