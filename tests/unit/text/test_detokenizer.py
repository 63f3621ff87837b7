"""Characters that come in several tokens."""

from __future__ import annotations

import pytest

from headrace.text.detokenizer import IncrementalDetokenizer
from headrace.text.tokenizer import Tokenizer


def bytes_as_tokens(tokenizer: Tokenizer, data: bytes) -> list[int]:
    single = {tokenizer.token_bytes(i): i for i in range(600)}
    return [single[bytes([byte])] for byte in data]


@pytest.mark.parametrize("name", ["qwen", "gemma"])
@pytest.mark.parametrize(
    ("data", "pieces"),
    [
        ("é😀".encode(), ["", "é", "", "", "", "😀"]),
        (b"\xe2\x82x", ["", "", "\ufffdx"]),  # cut short by another character
        (b"\xf0\x9f\x98", ["", "", ""]),  # cut short by the end
        (b"\xff\xfea", ["\ufffd", "\ufffd", "a"]),  # never valid: known at once
        (b"\xed\xa0\x80", ["", "", "\ufffd\ufffd\ufffd"]),  # a surrogate
        (b"\xc3\xc3\xa9", ["", "\ufffd", "é"]),
    ],
)
def test_characters_come_whole(
    request: pytest.FixtureRequest, name: str, data: bytes, pieces: list[str]
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    ids = bytes_as_tokens(tokenizer, data)
    detokenizer = IncrementalDetokenizer(tokenizer)
    assert [detokenizer.append([token_id]) for token_id in ids] == pieces
    whole = data.decode("utf-8", "replace")
    assert "".join(pieces) + detokenizer.flush() == whole == tokenizer.decode(ids)


def test_special_tokens_are_skipped_or_shown(qwen: Tokenizer) -> None:
    ids = qwen.encode("a<|im_end|><tool_call>é<|im_start|>", parse_special=True)
    skipping, showing = IncrementalDetokenizer(qwen), IncrementalDetokenizer(qwen, False)
    assert skipping.append(ids) == "a<tool_call>é"
    assert showing.append(ids) == "a<|im_end|><tool_call>é<|im_start|>"
