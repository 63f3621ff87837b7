"""Which tokens end an answer."""

from __future__ import annotations

import pytest

from headrace.text.tokenizer_facts import TokenizerFacts, end_token_ids

VOCABULARY = {"<eos>": 1, "<|im_end|>": 2, "<|end|>": 3, "<|return|>": 4, "<|call|>": 5, "[EOT]": 6}


@pytest.mark.parametrize(
    ("vocabulary", "control", "facts", "expected"),
    [
        # The files' own end tokens, and control tokens with a well-known name.
        ("<eos> <|im_end|>", {1, 2}, TokenizerFacts({"eos_token": "<eos>"}), {1, 2}),
        ("<|im_end|>", {2}, TokenizerFacts({}, end_ids=frozenset({9})), {2, 9}),
        # A name that is plain text in this vocabulary ends nothing.
        ("<eos> [EOT]", {1}, TokenizerFacts({"eos_token": "<eos>"}), {1}),
        # Makers that list end tokens are believed.
        ("<|im_end|>", {2}, TokenizerFacts({}, frozenset({7}), is_end_complete=True), {7}),
        # <|end|> closes a message of several in the harmony format, and an answer elsewhere.
        ("<|end|> <|return|> <|call|>", {3, 4, 5}, TokenizerFacts({}), {4, 5}),
        ("<|end|> <|return|>", {3, 4}, TokenizerFacts({}), {3, 4}),
        ("", set(), TokenizerFacts({"eos_token": "unknown"}), set()),
    ],
)
def test_end_tokens(
    vocabulary: str, control: set[int], facts: TokenizerFacts, expected: set[int]
) -> None:
    ids = {name: VOCABULARY[name] for name in vocabulary.split()}
    assert end_token_ids(facts, ids.get, frozenset(control)) == expected
