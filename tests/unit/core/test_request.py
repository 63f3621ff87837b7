"""Sampling parameters are checked when they are made, and every error names its field."""

from __future__ import annotations

from collections.abc import Iterator

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
    ("top_k", 2**31),
    ("min_p", 1.1),
    ("typical_p", 0.0),
    ("repetition_penalty", 0),
    ("repetition_penalty", 1e-40),
    ("presence_penalty", -2.1),
    ("frequency_penalty", 3),
    ("seed", 2**63),
    ("seed", 1.0),
    ("n", 0),
    ("n", 129),
    ("logprobs", 21),
    ("prompt_logprobs", -1),
    ("min_tokens", -1),
    ("max_tokens", -1),
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


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("stop", ["x" * 4000, "y" * 97], "stop has 4097 characters; allowed: at most 4096."),
        ("bad_words", ["x"] * 513, "bad_words has 513 texts; allowed: at most 512."),
        ("bad_words", ["x" * 16_385], "bad_words has 16385 characters; allowed: at most 16384."),
        (
            "stop_token_ids",
            range(1025),
            "stop_token_ids has 1025 token ids; allowed: at most 1024.",
        ),
        ("allowed_token_ids", range(2**20 + 1), "allowed_token_ids has 1048577 token ids; allowed"),
        ("logit_bias", dict.fromkeys(range(2**16 + 1), 1), "logit_bias has 65537 token ids; allo"),
    ],
)
def test_what_costs_work_for_every_token_is_bounded(name: str, value: object, told: str) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name
    assert caught.value.message.startswith(told)


def test_token_ids_are_kept_once() -> None:
    params = SamplingParams(stop_token_ids=[3, 1, 3], allowed_token_ids=[7] * 1000)
    assert (params.stop_token_ids, params.allowed_token_ids) == ((3, 1), (7,))


def test_an_error_shows_the_beginning_of_any_value() -> None:
    class Wide(dict[str, object]):
        """Counts how many members are looked at."""

        num_seen = 0

        def items(self) -> Iterator[tuple[str, object]]:  # type: ignore[override]
            for key in range(10**6):
                self.num_seen += 1
                yield f"{key}", ["x" * 10**6] * 1000

    wide = Wide()
    shown = InvalidParameter("field", wide, "less").message
    assert shown.startswith("field is {'0': ['xxx")
    assert shown.endswith("...; allowed: less.")
    assert len(shown) == len("field is ; allowed: less.") + 120
    assert wide.num_seen <= 2
    nested: list[object] = []
    for _ in range(60):
        nested = [nested, {"a": (1, None)}]
    assert len(InvalidParameter("field", nested, "less").message) < 150
    assert InvalidParameter("f", {"a": [1, (2,)], "b": b"c"}, "less").message == (
        "f is {'a': [1, (2,)], 'b': b'c'}; allowed: less."
    )


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
