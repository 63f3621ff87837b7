"""A vector of a prompt has the same bits alone, beside answers, in chunks, cached and preempted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from consistency.conftest import ARCHITECTURES
from consistency.mixed_requests import requests
from headrace.core.request import SamplingParams
from headrace.models.llama import Llama
from oracle.engine_driver import Answer, Asked, EngineDriver, Setting
from oracle.isas import supported_isas
from oracle.tiny_models import token_ids


def pooled() -> list[Asked]:
    """Both kinds, from 1 token to several blocks; those of a length have one prompt."""
    return [
        Asked(
            f"{pooling}{length}", tuple(token_ids(length=length)), SamplingParams(), 1, 7, pooling
        )
        for length in (1, 33, 80, 150)
        for pooling in ("last", "mean")
    ]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, tiny: Callable[..., Llama]) -> Llama:
    """On the widest instruction set here: that all give the same bits, answers show."""
    isas = supported_isas()
    if not isas:
        pytest.skip("the C++ extension is not built")
    return tiny(request.param, isas[-1], 2)


@pytest.fixture(scope="module")
def alone(model: Llama) -> dict[str, Answer]:
    setting = Setting(has_prefix_cache=False, is_eager=True)
    answers: dict[str, Answer] = {}
    for each in [*pooled(), *requests()]:
        answers |= EngineDriver(model, setting).generate([each])
    return answers


@pytest.mark.parametrize(
    "setting",
    [
        Setting(),
        Setting(max_num_batched_tokens=7),
        Setting(num_blocks=7, max_num_seqs=6),
    ],
    ids=["whole", "chunks", "crowded"],
)
def test_vectors_are_the_same_bits(
    model: Llama, alone: dict[str, Answer], setting: Setting
) -> None:
    engine = EngineDriver(model, setting)
    arrivals = {"last80": 3, "mean150": 2, "mean33": 5}
    got = engine.generate([*requests(), *pooled()], arrivals)
    assert got == alone
    assert all(len(got[each.name].vector or ()) == model.config.hidden_size for each in pooled())
    again = engine.generate(pooled())
    assert again == {each.name: alone[each.name] for each in pooled()}
    if setting.num_blocks > 60:
        assert again["last150"].num_cached_tokens >= 128
        assert again["mean150"].num_cached_tokens == 0
    assert not engine.runner._pooling._sums


def test_a_mean_that_is_preempted_begins_again(model: Llama) -> None:
    """Two answers grow into new blocks while the mean is under way, and there is one left."""
    greedy = SamplingParams(temperature=0.0)
    answers = [Asked(name, tuple(token_ids(length=10)), greedy, 40) for name in "ab"]
    mean = Asked("mean", tuple(token_ids(length=120)), SamplingParams(), 1, 7, "mean")
    alone = EngineDriver(model).generate([mean])
    engine = EngineDriver(model, Setting(num_blocks=7, max_num_batched_tokens=5, max_num_seqs=4))
    got = engine.generate([*answers, mean], {"mean": 4})
    assert got["mean"] == alone["mean"]
    assert got["mean"].num_preemptions == 1
