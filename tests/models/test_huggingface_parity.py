"""Tiny models of every architecture from Hugging Face folders against transformers in float32."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.core.request import SamplingParams
from headrace.ops.reference.reference_ops import ReferenceOps
from oracle import transformers_logits
from oracle.driver import Driver, load_model
from oracle.engine_driver import Asked, EngineDriver, Setting
from oracle.tiny_models import CASES, TinyModel, build, case, save, token_ids

FLOAT32_LOGITS = 1e-4
"""Float32 sums in other orders over up to 7 layers differ by 2e-5 at most; a window off by one
token changes logits by 0.8 and more."""

CHUNKS = {"whole": [10**9], "chunked": [1, 7, 32, 9, 26], "decode": [40, 1]}


@pytest.fixture(scope="module", params=CASES, ids=lambda tiny: tiny.name)
def tiny(request: pytest.FixtureRequest) -> TinyModel:
    return request.param


@pytest.fixture(scope="module")
def folder(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build(tiny), tmp_path_factory.mktemp(tiny.name))


@pytest.fixture(scope="module")
def expected(tiny: TinyModel) -> np.ndarray:
    return transformers_logits.logits(build(tiny), token_ids())


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS.keys())
def test_logits_equal_those_of_transformers(
    folder: Path, expected: np.ndarray, chunks: list[int], dtype: type
) -> None:
    driver = Driver(load_model(folder, ReferenceOps(dtype)))
    np.testing.assert_allclose(driver.run(token_ids(), chunks), expected, atol=FLOAT32_LOGITS)


@pytest.mark.parametrize("name", ["qwen2-tied", "gemma3", "phi3"])
def test_vectors_are_the_states_of_transformers(name: str, tmp_path: Path) -> None:
    model = build(case(name))
    expected = transformers_logits.states(model, token_ids())
    engine = EngineDriver(
        load_model(save(model, tmp_path), ReferenceOps(np.float32)),
        Setting(max_num_batched_tokens=23, is_eager=True),
    )
    ask = partial(Asked, prompt=tuple(token_ids()), sampling=SamplingParams())
    got = engine.generate([ask("last", pooling="last"), ask("mean", pooling="mean")])
    assert [answer.token_ids for answer in got.values()] == [[], []]
    np.testing.assert_allclose(got["last"].vector, expected[-1], atol=FLOAT32_LOGITS)
    np.testing.assert_allclose(got["mean"].vector, expected.mean(0), atol=FLOAT32_LOGITS)


def test_bfloat16_weights_are_used_as_they_are(tmp_path: Path) -> None:
    model = build(case("qwen2"), torch.bfloat16)
    folder = save(model, tmp_path, torch.bfloat16)
    expected = transformers_logits.logits(model, token_ids())
    driver = Driver(load_model(folder, ReferenceOps(np.float32)))
    np.testing.assert_allclose(driver.run(token_ids(), [50, 25]), expected, atol=FLOAT32_LOGITS)


def test_longrope_takes_the_short_factors_where_the_context_is_limited(tmp_path: Path) -> None:
    model = build(case("phi3-longrope"))
    folder = save(model, tmp_path)
    tokens = token_ids(length=60)  # under the original context of 64
    expected = transformers_logits.logits(model, tokens)
    short = Driver(load_model(folder, ReferenceOps(np.float32), max_positions=64))
    np.testing.assert_allclose(short.run(tokens, [60]), expected, atol=FLOAT32_LOGITS)
    long = Driver(load_model(folder, ReferenceOps(np.float32), max_positions=65))
    assert np.abs(long.run(tokens, [60]) - expected).max() > 100 * FLOAT32_LOGITS
