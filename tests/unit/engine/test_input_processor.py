"""Requests to tokens, and every way in which they are refused."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.byte_tokenizer import BOS, EOS, VOCAB_SIZE, byte_tokenizer
from fakes.running_engine import TEMPLATE, ask
from headrace.core.errors import (
    ContextTooLong,
    InvalidGrammar,
    InvalidParameter,
    RequestError,
    UnsupportedParameter,
)
from headrace.core.message import Message
from headrace.core.structured_outputs import StructuredOutputs
from headrace.engine.input_processor import InputProcessor
from headrace.engine.seeds import derive_seed, resolve_seed
from headrace.text.chat_template import ChatTemplate

CHAT = (Message("user", "hi"),)


@pytest.fixture(scope="module")
def processor() -> InputProcessor:
    return InputProcessor(byte_tokenizer(), ChatTemplate(TEMPLATE, {}), max_model_len=40)


def test_text_ids_and_messages_become_tokens(processor: InputProcessor) -> None:
    assert processor.prepare(ask("abc")).prompt_token_ids == tuple(b"abc")
    assert processor.prepare(ask((1, 2, 3))).prompt_token_ids == (1, 2, 3)
    chat = processor.prepare(ask(None, messages=CHAT))
    assert chat.prompt_token_ids == tuple(b"user:hi\n")


def test_a_bare_prompt_may_name_control_tokens_and_a_chat_may_not(
    processor: InputProcessor,
) -> None:
    assert processor.prepare(ask("<bos>a")).prompt_token_ids == (BOS, ord("a"))
    chat = processor.prepare(ask(None, messages=(Message("user", "<eos>"),)))
    assert EOS not in chat.prompt_token_ids


def test_one_spec_per_answer(processor: InputProcessor) -> None:
    request = ask("abc", n=3, seed=5, prompt_logprobs=2, priority=4, tenant="t", cache_salt="s")
    prepared = processor.prepare(request, "u")
    assert [spec.request_id for spec in prepared.specs] == ["u.0", "u.1", "u.2"]
    assert [spec.seed for spec in prepared.specs] == [derive_seed(5, index) for index in range(3)]
    assert [spec.sampling.prompt_logprobs for spec in prepared.specs] == [2, None, None]
    for spec in prepared.specs:
        assert (spec.priority, spec.tenant, spec.cache_salt) == (4, "t", "s")
        assert spec.eos_token_ids == (EOS,)


MARKS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>")


def test_the_middle_is_asked_for_with_the_marks_of_the_model() -> None:
    before, after, middle, file_end = range(VOCAB_SIZE, VOCAB_SIZE + 4)
    processor = InputProcessor(byte_tokenizer(MARKS), None, max_model_len=40)
    prepared = processor.prepare(ask("a<eos>", suffix="b<|fim_middle|>"))
    typed = b"b<|fim_middle|>"
    assert prepared.prompt_token_ids == (before, *b"a<eos>", after, *typed, middle)
    assert prepared.specs[0].eos_token_ids == (EOS, file_end)
    assert processor.prepare(ask("", suffix="b")).prompt_token_ids == (before, after, 98, middle)
    assert processor.prepare(ask("a")).specs[0].eos_token_ids == (EOS,)
    assert processor.prepare(ask("a", suffix="b", ignore_eos=True)).specs[0].eos_token_ids == ()


def test_a_middle_that_cannot_be_filled(processor: InputProcessor) -> None:
    with pytest.raises(UnsupportedParameter, match="no tokens for filling in the middle"):
        processor.prepare(ask("a", suffix="b"))
    filling = InputProcessor(byte_tokenizer(MARKS), None, max_model_len=40)
    for wrong, param in (
        (ask((1, 2), suffix="b"), "suffix"),
        (ask("a", suffix="b", truncate_prompt_tokens=3), "truncate_prompt_tokens"),
    ):
        with pytest.raises(InvalidParameter) as caught:
            filling.prepare(wrong)
        assert caught.value.param == param
    with pytest.raises(ContextTooLong):
        filling.prepare(ask("a", suffix="b" * 40))


def test_a_prediction_is_a_text_without_control_tokens(processor: InputProcessor) -> None:
    prepared = processor.prepare(ask("abc", n=2, prediction="x<eos>y"))
    assert [spec.predicted_token_ids for spec in prepared.specs] == [tuple(b"x<eos>y")] * 2
    (spec,) = processor.prepare(ask("abc", prediction="x" * 99)).specs
    assert len(spec.predicted_token_ids) == 40  # no answer is longer
    assert processor.prepare(ask("abc")).specs[0].predicted_token_ids == ()


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({"seed": None}, "rejection"),
        ({"seed": 3}, None),
        ({"seed": 3, "is_seed_drawn": True}, "rejection"),
        ({"temperature": 0.0}, None),
    ],
)
def test_whose_tokens_depend_on_what_was_guessed(
    sampling: dict[str, Any], expected: str | None
) -> None:
    rejecting = InputProcessor(byte_tokenizer(), None, 40, draft_acceptance="rejection")
    assert rejecting.prepare(ask("abc", **sampling)).draft_acceptance == expected
    plain = InputProcessor(byte_tokenizer(), None, 40)
    assert plain.prepare(ask("abc", **sampling)).draft_acceptance is None


def test_seeds() -> None:
    assert resolve_seed(3) == 3
    assert resolve_seed(-1) == 2**64 - 1
    assert len({resolve_seed(None) for _ in range(8)}) == 8
    assert derive_seed(9, 0) == 9
    # part of the contract: answers of an old request can be had again
    assert derive_seed(9, 1) == 4892556851312131662
    assert len({derive_seed(seed, index) for seed in range(9) for index in range(9)}) == 81


def test_ignore_eos_leaves_no_eos(processor: InputProcessor) -> None:
    assert processor.prepare(ask("abc", ignore_eos=True)).specs[0].eos_token_ids == ()


def test_max_tokens_none_is_what_the_context_leaves(processor: InputProcessor) -> None:
    prepared = processor.prepare(ask("a" * 30, max_tokens=None))
    assert prepared.sampling.max_tokens == 10
    assert prepared.specs[0].max_tokens == 10


def test_context_limits_are_exact(processor: InputProcessor) -> None:
    assert processor.prepare(ask("a" * 39, max_tokens=1)).specs
    assert processor.prepare(ask("a" * 30, max_tokens=10)).specs
    with pytest.raises(ContextTooLong, match=r"40 tokens\. The prompt has 40 tokens\.") as caught:
        processor.prepare(ask("a" * 40, max_tokens=1))
    assert (caught.value.param, caught.value.max_tokens) == ("prompt", None)
    with pytest.raises(ContextTooLong, match="30 tokens and asks for 11 more") as caught:
        processor.prepare(ask("a" * 30, max_tokens=11))
    assert (caught.value.param, caught.value.code) == ("max_tokens", "context_length_exceeded")
    with pytest.raises(ContextTooLong) as caught:
        processor.prepare(ask(None, messages=(Message("user", "a" * 99),)))
    assert caught.value.param == "messages"


def test_min_tokens_must_fit_the_context(processor: InputProcessor) -> None:
    with pytest.raises(InvalidParameter, match=r"min_tokens is 11; allowed: 0 to 10"):
        processor.prepare(ask("a" * 30, max_tokens=None, min_tokens=11))


def test_a_prompt_is_cut_only_when_asked(processor: InputProcessor) -> None:
    prompt = "b" * 100 + "a" * 10
    prepared = processor.prepare(ask(prompt, truncate_prompt_tokens=12))
    assert prepared.prompt_token_ids == tuple(b"bb" + b"a" * 10)
    for wrong in (0, -2, 40, True, "9"):
        with pytest.raises(InvalidParameter, match="truncate_prompt_tokens"):
            processor.prepare(ask(prompt, truncate_prompt_tokens=wrong))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ""}, "prompt is ''; allowed: at least one token"),
        ({"prompt": ()}, "prompt is (); allowed: at least one token"),
        ({"prompt": None}, "prompt and messages are both missing; give one of them"),
        ({"messages": CHAT}, "prompt and messages are both given; give one of them"),
        ({"prompt": (1, 258)}, "prompt is 258; allowed: token ids of this model, 0 to 257"),
        ({"prompt": (-1,)}, "prompt is -1; allowed: token ids of this model, 0 to 257"),
        ({"prompt": (True,)}, "prompt is True; allowed: token ids of this model, 0 to 257"),
        ({"logit_bias": {300: 1.0}}, r"logit_bias is {300: 1.0}; allowed: token ids of this model"),
        ({"allowed_token_ids": [1, 999]}, "allowed_token_ids is 999; allowed: token ids"),
        ({"stop_token_ids": [258]}, "stop_token_ids is 258; allowed: token ids of this model"),
    ],
)
def test_refusals_name_the_field(
    processor: InputProcessor, changes: dict[str, Any], message: str
) -> None:
    values = {"prompt": "abc"} | changes
    with pytest.raises(RequestError) as caught:
        processor.prepare(ask(**values))
    assert caught.value.message.startswith(message)


def test_a_model_with_padding_rows_accepts_their_ids() -> None:
    processor = InputProcessor(byte_tokenizer(), None, 40, vocab_size=VOCAB_SIZE + 6)
    assert processor.prepare(ask((VOCAB_SIZE + 5,))).specs
    with pytest.raises(InvalidParameter, match="0 to 263"):
        processor.prepare(ask((VOCAB_SIZE + 6,)))


def test_a_model_without_template_refuses_chats() -> None:
    processor = InputProcessor(byte_tokenizer(), None, 40)
    with pytest.raises(RequestError, match="no chat template"):
        processor.prepare(ask(None, messages=CHAT))


def test_bad_words_are_spelled_with_and_without_a_space(processor: InputProcessor) -> None:
    spec = processor.prepare(ask("abc", bad_words=["no", " so"])).specs[0]
    assert spec.bad_words_ids == (tuple(b"no"), tuple(b" no"), tuple(b" so"))


def test_a_form_is_checked_before_anything_is_queued() -> None:
    def refuse(form: StructuredOutputs) -> None:
        raise InvalidGrammar(form.param, "no.")

    template = ChatTemplate(TEMPLATE, {})
    form = StructuredOutputs(regex="a")
    checked: list[StructuredOutputs] = []
    processor = InputProcessor(byte_tokenizer(), template, 40, check_form=checked.append)
    prepared = processor.prepare(ask("abc", n=2, structured_outputs=form))
    assert [spec.sampling.structured_outputs for spec in prepared.specs] == [form, form]
    assert checked == [form]
    processor = InputProcessor(byte_tokenizer(), template, 40, check_form=refuse)
    with pytest.raises(InvalidGrammar) as caught:
        processor.prepare(ask("abc", structured_outputs=form))
    assert caught.value.param == "structured_outputs.regex"


def test_without_a_check_forms_are_refused(processor: InputProcessor) -> None:
    with pytest.raises(UnsupportedParameter):
        processor.prepare(ask("abc", structured_outputs=StructuredOutputs(regex="a")))


LONG = "x" * 20_000


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": LONG}, "prompt"),
        ({"prompt": LONG, "pooling": "last"}, "prompt"),
        ({"prompt": None, "messages": (Message("user", LONG),)}, "messages"),
    ],
)
def test_what_is_far_too_long_is_refused_without_its_tokens(
    fields: dict[str, Any], param: str
) -> None:
    tokenizer = byte_tokenizer()
    processor = InputProcessor(tokenizer, ChatTemplate(TEMPLATE, {}), max_model_len=4000)
    num_tokens = len(processor.encode(ask(**fields))[1])
    with pytest.raises(ContextTooLong, match=r"has at least \d+ tokens") as refused:
        processor.prepare(ask(**fields))
    assert refused.value.param == param
    assert 4000 <= refused.value.num_tokens <= num_tokens
    assert ("truncate_prompt_tokens (1 to 3999)" in refused.value.message) == ("pooling" in fields)
    cut = processor.prepare(ask(**fields, truncate_prompt_tokens=9))
    assert cut.num_truncated_tokens == num_tokens - 9


def test_no_prompt_that_fits_is_refused_by_its_length() -> None:
    processor = InputProcessor(byte_tokenizer(), None, max_model_len=5001)
    assert len(processor.prepare(ask("x" * 5000, max_tokens=1)).prompt_token_ids) == 5000
    # A control token is one, however long its text is.
    controls = "<bos>" * 4999
    assert len(processor.prepare(ask(controls, max_tokens=1)).prompt_token_ids) == 4999
