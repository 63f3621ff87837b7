"""When the compiler of forms is loaded, and what it asks of a tokenizer."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fakes.byte_tokenizer import byte_tokenizer
from headrace.core.errors import InvalidGrammar
from headrace.core.structured_outputs import StructuredOutputs
from headrace.sampling.logits_rule import LogitsRules

START = "import sys, headrace.launch.serve, headrace.llm; print('llguidance' in sys.modules)"


def test_a_start_without_forms_does_not_pay_for_them() -> None:
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_tokens_need_bytes_of_their_own() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.is_streamable = False
    with pytest.raises(InvalidGrammar) as caught:
        LogitsRules(lambda: tokenizer, 300).check(StructuredOutputs(regex="a"))
    assert caught.value.message == (
        "structured_outputs.regex cannot be enforced: this model's tokens have no bytes of their "
        "own."
    )
