"""The canary: equal weights say the same, damaged ones do not, and what each mode does of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headrace.core.errors import ModelFileError, QualityDrift
from headrace.executor.canary import (
    LOGPROBS_KEY,
    MOST_DRIFT,
    TOKENS_KEY,
    Reference,
    check_canary,
    read_reference,
    token_logprobs,
)
from headrace.models.llama import Llama
from headrace.ops.table import make_ops
from oracle import quality, transformers_logits
from oracle.driver import Driver, load_model
from oracle.tiny_models import VOCAB_SIZE, build, case, save, token_ids

TOKENS = token_ids(48)
KEYS = {TOKENS_KEY: TOKENS, LOGPROBS_KEY: [-1.0] * 47}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    folder = save(build(case("qwen2")), tmp_path_factory.mktemp("tiny"))
    return load_model(folder, make_ops("reference"))


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    logits = transformers_logits.logits(build(case("qwen2")), TOKENS)
    return quality.log_softmax(logits)[np.arange(47), TOKENS[1:]].astype(np.float32)


def check(model: Llama, reference: Reference | None, mode: str, max_model_len: int = 256):
    cache = Driver(model).cache
    return check_canary(model, cache, reference, mode, block_size=16, max_model_len=max_model_len)


def test_log_probabilities_are_those_of_transformers(model: Llama, expected: np.ndarray) -> None:
    found = token_logprobs(model, Driver(model).cache, TOKENS, 16)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("mode", ["warn", "refuse"])
def test_the_model_itself_does_not_drift(
    model: Llama, expected: np.ndarray, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    drift = check(model, Reference(tuple(TOKENS), expected), mode)
    assert drift.num_tokens == 47
    assert drift.worst < 1e-4
    assert not caplog.records


def test_another_model_is_refused_or_warned_of_with_numbers(
    model: Llama, expected: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    other = Reference(tuple(TOKENS), expected - np.float32(2 * MOST_DRIFT))
    with pytest.raises(QualityDrift, match=r"0\.500 nats from those stored.* allowed are 0\.25"):
        check(model, other, "refuse")
    with caplog.at_level(logging.WARNING):
        assert not check(model, other, "warn").is_small
    assert "drifts" in caplog.text
    assert check(model, other, "off") is None


def test_weights_that_are_not_numbers_drift(model: Llama, expected: np.ndarray) -> None:
    broken = replace(model.weights, norm=np.full_like(model.weights.norm, np.nan))
    bad = type(model)(model.ops, model.config, broken)
    with pytest.raises(QualityDrift, match="nan"):
        check(bad, Reference(tuple(TOKENS), expected), "refuse")


def test_a_short_context_bounds_the_text(model: Llama, expected: np.ndarray) -> None:
    reference = Reference(tuple(TOKENS), expected)
    assert check(model, reference, "refuse", max_model_len=20).num_tokens == 19
    assert check(model, reference, "refuse", max_model_len=7) is None
    assert check(model, None, "refuse") is None


def test_a_file_that_stores_nothing_has_no_reference() -> None:
    assert read_reference({"general.name": "x"}, "a.gguf", VOCAB_SIZE) is None
    found = read_reference(KEYS, "a.gguf", VOCAB_SIZE)
    assert found.token_ids == tuple(TOKENS)
    assert found.logprobs.tolist() == [-1.0] * 47


@pytest.mark.parametrize(
    "change",
    [
        {TOKENS_KEY: 3},
        {TOKENS_KEY: TOKENS[:-1]},
        {TOKENS_KEY: [*TOKENS[:-1], VOCAB_SIZE]},
        {TOKENS_KEY: [*TOKENS[:-1], -1]},
        {TOKENS_KEY: [True] * 48},
        {TOKENS_KEY: TOKENS * 100, LOGPROBS_KEY: [-1.0] * 4799},
        {LOGPROBS_KEY: None},
        {LOGPROBS_KEY: [-1] * 47},
        {LOGPROBS_KEY: [float("nan")] * 47},
        {LOGPROBS_KEY: [0.5] * 47},
    ],
)
def test_keys_that_are_no_reference_are_damage(change: dict[str, object]) -> None:
    with pytest.raises(ModelFileError, match=r"a\.gguf: headrace\.canary\.tokens"):
        read_reference({**KEYS, **change}, Path("a.gguf"), VOCAB_SIZE)
