"""Sampling parameters are checked when they are made, and every error names its field."""

from __future__ import annotations

import pytest

from headrace.core.errors import InvalidParameter, RequestError
from headrace.core.request import SamplingParams

WRONG = [
    ("temperature", -0.1),
    ("temperature", 2.5),
    ("temperature", "1"),
    ("temperature", True),
    ("temperature", float("nan")),
    ("top_p", 0),
    ("top_p", 1.01),
    ("top_k", -2),
    ("top_k", 1.5),
    ("min_p", 1.1),
    ("typical_p", 0.0),
    ("repetition_penalty", 0),
    ("presence_penalty", -2.1),
    ("frequency_penalty", 3),
    ("seed", 2**63),
    ("seed", 1.0),
    ("n", 0),
    ("n", 129),
    ("logprobs", 21),
    ("prompt_logprobs", -1),
    ("min_tokens", -1),
    ("max_tokens", 0),
    ("max_tokens", True),
    ("ignore_eos", 1),
    ("skip_special_tokens", None),
    ("stop", ""),
    ("stop", ["a", ""]),
    ("stop", [1]),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", "12"),
    ("stop_token_ids", [True]),
    ("allowed_token_ids", []),
    ("bad_words", [""]),
    ("logit_bias", {"x": 1}),
    ("logit_bias", {5: 101}),
    ("logit_bias", {5: None}),
    ("logit_bias", [5]),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_wrong_value_names_field_and_what_is_allowed(name: str, value: object) -> None:
    with pytest.raises(InvalidParameter) as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name
    assert caught.value.message.startswith(f"{name} is ")
    assert "; allowed: " in caught.value.message


def test_too_many_stop_texts_are_counted_not_shown() -> None:
    with pytest.raises(RequestError, match="stop has 65 texts; allowed: at most 64") as caught:
        SamplingParams(stop=["x"] * 65)
    assert caught.value.param == "stop"


def test_a_single_stop_text_becomes_a_tuple() -> None:
    assert SamplingParams(stop="###").stop == ("###",)


def test_logit_bias_keys_may_be_json_strings() -> None:
    assert SamplingParams(logit_bias={"7": -100}).logit_bias == {7: -100.0}


def test_min_tokens_beyond_max_tokens_is_a_contradiction() -> None:
    with pytest.raises(InvalidParameter, match="min_tokens is 5; allowed: 0 to max_tokens"):
        SamplingParams(min_tokens=5, max_tokens=4)


def test_defaults_are_those_of_the_openai_api() -> None:
    params = SamplingParams()
    assert (params.temperature, params.top_p, params.n, params.max_tokens) == (1.0, 1.0, 1, None)
    assert not params.is_greedy
