"""Whatever the text, the tokens and the way they come: nothing is lost, and nothing is forged."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes.real_tokenizers import real_tokenizer
from fakes.texts import assigned_texts
from headrace.text.control_text import ControlTexts, Marker, Marking, split_at
from headrace.text.detokenizer import IncrementalDetokenizer
from headrace.text.stop_strings import StopStringBuffer
from headrace.text.tokenizer import Tokenizer

TOKENIZERS = ("qwen", "gemma")
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def tokenizers(qwen05_path: Path, gemma_path: Path) -> Mapping[str, Tokenizer]:
    paths = dict(zip(TOKENIZERS, (qwen05_path, gemma_path), strict=True))
    return {name: real_tokenizer(path) for name, path in paths.items()}


def token_ids(tokenizer: Tokenizer, seed: int, size: int) -> list[int]:
    """Random ids, half of them single bytes, so that characters begin, break and end anywhere."""
    source = random.Random(seed)
    single = [i for i in range(600) if len(tokenizer.token_bytes(i)) == 1]
    special = sorted(tokenizer.special_token_ids)
    return [
        source.choice(single)
        if source.random() < 0.5
        else source.choice(special)
        if source.random() < 0.1
        else source.randrange(tokenizer.vocab_size)
        for _ in range(size)
    ]


def chunks(items: list[int], seed: int) -> list[list[int]]:
    source, parts, at = random.Random(seed), [], 0
    while at < len(items):
        step = source.randrange(4)
        parts.append(items[at : at + step])
        at += step
    return parts


@pytest.mark.parametrize("name", TOKENIZERS)
@QUICK
@given(seed=st.integers(0, 2**32), size=st.integers(0, 80), skip=st.booleans())
def test_pieces_join_to_decode(
    tokenizers: Mapping[str, Tokenizer], name: str, seed: int, size: int, skip: bool
) -> None:
    tokenizer = tokenizers[name]
    ids = token_ids(tokenizer, seed, size)
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=skip)
    pieces = [detokenizer.append(part) for part in chunks(ids, seed)]
    assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(ids, skip)


@pytest.mark.parametrize("name", TOKENIZERS)
@QUICK
@given(text=assigned_texts(), seed=st.integers(0, 2**32))
def test_text_survives(
    tokenizers: Mapping[str, Tokenizer], name: str, text: str, seed: int
) -> None:
    """Of texts in NFC for Qwen, whose training text was; U+2581 is a space to sentencepiece."""
    tokenizer = tokenizers[name]
    text = unicodedata.normalize("NFC", text) if name == "qwen" else text.replace("▁", "_")
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert tokenizer.special_token_ids.isdisjoint(ids)
    assert tokenizer.decode(tokenizer.encode(text, False, parse_special=True)) == text
    detokenizer = IncrementalDetokenizer(tokenizer)
    pieces = [detokenizer.append(part) for part in chunks(ids, seed)]
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("name", TOKENIZERS)
@QUICK
@given(text=assigned_texts())
def test_pieces_encode_as_the_whole(
    tokenizers: Mapping[str, Tokenizer], name: str, text: str
) -> None:
    tokenizer = tokenizers[name]
    pieces = split_at(text, tokenizer.control_texts.find(text))
    whole = tokenizer.encode(text, add_special_tokens=False, parse_special=True)
    assert tokenizer.encode_pieces(pieces) == whole


@QUICK
@given(
    stop=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    pieces=st.lists(st.text("abc", max_size=5), max_size=12),
    include=st.booleans(),
)
def test_stop_strings_do_not_depend_on_pieces(
    stop: list[str], pieces: list[str], include: bool
) -> None:
    text = "".join(pieces)
    ends = [(text.find(s) + len(s), -len(s), s) for s in stop if s in text]
    end, _, hit = min(ends, default=(len(text), 0, None))
    expected = text[: end if include or hit is None else end - len(hit)]

    buffer = StopStringBuffer(stop, include)
    sent = ""
    for piece in pieces:
        sent += buffer.append(piece).text
        assert expected.startswith(sent)
    assert buffer.stop == hit
    assert sent + buffer.flush() == expected


@QUICK
@given(
    stop=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    text=st.text("abc", max_size=30),
)
def test_stop_strings_hold_back_no_more_than_needed(stop: list[str], text: str) -> None:
    buffer = StopStringBuffer(stop)
    sent = ""
    for at, character in enumerate(text):
        sent += buffer.append(character).text
        if buffer.stop is not None:
            return
        held = text[len(sent) : at + 1]
        longest = max(
            (n for s in stop for n in range(len(s)) if text[: at + 1].endswith(s[:n])), default=0
        )
        assert len(held) == longest


@QUICK
@given(text=assigned_texts(), marking=st.sampled_from(Marking))
def test_marks_come_off_and_hide_control_tokens(text: str, marking: Marking) -> None:
    controls = ControlTexts(("<|im_end|>", "<end_of_turn>", "<|im_start|>", "[INST]"))
    marker = Marker(controls, marking, [text])
    marked = marker.mark(text)
    assert marker.unmark(marked) == text
    assert len(marked) == len(text)
    if marking is not Marking.NONE:
        assert not controls.find(marked)
