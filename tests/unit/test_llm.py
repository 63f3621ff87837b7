"""What LLM takes: its mistakes are named before an engine sees them, and after it is closed."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from fakes.random_model import EOS, write_random_model
from headrace import LLM, SamplingParams
from headrace.core.errors import (
    BackendError,
    ConfigError,
    HeadraceError,
    ModelNotFound,
    UnsupportedFormat,
)
from headrace.core.message import Message
from headrace.llm import as_messages, as_params, as_prompts


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a", ["a"]),
        ("", [""]),
        ([1, 2], [(1, 2)]),
        (["a", (3,)], ["a", (3,)]),
    ],
)
def test_prompts(given: Any, expected: list[Any]) -> None:
    assert as_prompts(given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "prompts is None; allowed: a text, or a list of token ids, or a list of these."),
        (b"a", "prompts is b'a'; allowed: a text, or a list of token ids, or a list of these."),
        ([], "prompts is []; allowed: a text, or a list of token ids, or a list of these."),
        (["a", None], "prompts[1] is None; allowed: a text, or a list of token ids."),
        ([[1, "b"]], "prompts[0] is [1, 'b']; allowed: a text, or a list of token ids."),
    ],
)
def test_bad_prompts(given: Any, message: str) -> None:
    with pytest.raises(HeadraceError) as caught:
        as_prompts(given)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"max_tokens": 3},
            "sampling is {'max_tokens': 3}; allowed: a SamplingParams, or one per prompt. "
            "Write SamplingParams(max_tokens=3), not a mapping.",
        ),
        (
            [SamplingParams()],
            "sampling is a list of 1 for 2 prompts; allowed: one SamplingParams for all, "
            "or a list with one per prompt.",
        ),
    ],
)
def test_bad_sampling(given: Any, message: str) -> None:
    with pytest.raises(HeadraceError) as caught:
        as_params(given, 2)
    assert caught.value.message == message


def test_messages_are_records_or_mappings() -> None:
    message = Message("user", "hi")
    assert as_messages([message, {"role": "user", "content": "hi"}]) == (message, message)
    for wrong in (None, "hi", {"role": "user"}):
        with pytest.raises(HeadraceError, match=r"^messages is .*; allowed: a list, each a Mess"):
            as_messages(wrong)
    with pytest.raises(HeadraceError, match=r"^messages\[0\] is 'hi'; allowed: a Message"):
        as_messages(["hi"])


def test_a_model_is_a_name_or_a_path(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"missing\.gguf"):
        LLM(tmp_path / "missing.gguf")
    with pytest.raises(ConfigError, match=r"^model is 3; allowed: a model's name, or the path"):
        LLM(3)  # type: ignore[arg-type]


def test_conversations_run_together_and_answer_as_alone(qwen05_path: Path) -> None:
    chats = [[{"role": "user", "content": text}] for text in ("Say yes.", "Count to three.")]
    params = [SamplingParams(max_tokens=length, temperature=0) for length in (3, 5)]
    with LLM(qwen05_path, max_model_len=64) as llm:
        together = llm.chat(chats, params)
        for chat, sampling, found in zip(chats, params, together, strict=True):
            assert llm.chat(chat, sampling).completions == found.completions
        with pytest.raises(HeadraceError, match=r"messages\[1\]\[0\] is 'b'; allowed: a Message"):
            llm.chat([chats[0], ["b"]])  # type: ignore[list-item]
        for wrong in (None, "hi", chats[0][0]):
            with pytest.raises(HeadraceError, match=r"messages is .*; allowed: a list"):
                llm.chat(wrong)  # type: ignore[call-overload]


@pytest.mark.parametrize("end_id", [[EOS, 99_999], -1, 10**30])
def test_ends_that_a_model_cannot_say_end_no_engine(end_id: object, tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end_id}))
    with LLM(folder) as llm:
        (answer,) = llm.generate("a", SamplingParams(max_tokens=3, min_tokens=2, temperature=0))
    assert answer.usage.output_tokens >= 2


def test_heads_that_no_kernel_reads_are_the_models(tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"head_dim": 1024}))
    with pytest.raises(UnsupportedFormat, match="head_size is 1024; allowed: even, to 512"):
        LLM(folder)


def test_a_closed_llm_says_so(qwen05_path: Path) -> None:
    with LLM(qwen05_path, max_model_len=64, num_threads=1) as llm:
        stream = llm.stream("a", SamplingParams(max_tokens=8, temperature=0))
        assert next(stream).deltas is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in (
            lambda: llm.generate("a"),
            lambda: llm.chat([{"role": "user", "content": "a"}]),
            lambda: next(llm.stream("a")),
            lambda: list(stream),
        ):
            with pytest.raises(BackendError, match="This LLM was closed"):
                call()
    llm.close()
