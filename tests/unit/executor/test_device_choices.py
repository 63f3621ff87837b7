"""Tokens that the device chooses: over a tiny model in numpy whose steps run late."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.late_ops import LateOps
from headrace.core.request import SamplingParams
from headrace.core.step import UNKNOWN_TOKEN, NewRequest, ScheduledRequest, SchedulerOutput
from headrace.executor import model_runner
from headrace.executor.model_runner import ModelRunner
from headrace.models.llama import Llama
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.sampling.no_choice import DAMAGED
from oracle.driver import load_model
from oracle.engine_driver import Answer, Asked, EngineDriver, Setting
from oracle.tiny_models import build, case, save, token_ids

LOGPROBS = 1e-4
"""Float32 sums in another order: steps have other neighbours."""
PLAIN = SamplingParams(temperature=0.0)
DRAWN = SamplingParams(temperature=1.1, top_k=60, top_p=0.95, min_p=0.01, typical_p=0.97)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build(case("llama")), tmp_path_factory.mktemp("model"))


def asked(name: str, length: int, sampling: SamplingParams, **changes: Any) -> Asked:
    seed = len(name) + length
    return Asked(name, tuple(token_ids(length, seed=seed)), sampling, seed=seed, **changes)


ASKED = (
    asked("greedy", 7, PLAIN, max_tokens=9),
    asked("drawn", 12, DRAWN, max_tokens=12),
    asked("late", 5, DRAWN, max_tokens=4),
    asked("long", 40, PLAIN, max_tokens=6),
)
ARRIVALS = {"late": 3, "long": 4}


def answers(
    ops: ReferenceOps, folder: Path, requests: tuple[Asked, ...] = ASKED, **setting: Any
) -> dict[str, Answer]:
    values: dict[str, Any] = {"num_blocks": 16, "max_num_batched_tokens": 24} | setting
    driver = EngineDriver(load_model(folder, ops), Setting(**values))
    found = driver.generate(requests, ARRIVALS)
    assert driver.manager.usage == 0.0
    assert not driver.engine.has_work
    return found


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Answer]:
    return answers(ReferenceOps(np.float32), folder)


@pytest.mark.parametrize("rows_at_once", [1, 64])
def test_tokens_are_those_that_the_host_would_choose(
    folder: Path, expected: dict[str, Answer], monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    """Chunks, arrivals and ends; the logits of few rows at a time or of all."""
    monkeypatch.setattr(model_runner, "MAX_LOGIT_ROWS", rows_at_once)
    ops = LateOps()
    assert answers(ops, folder) == expected
    (steps,) = ops.steps
    assert steps.num_ahead > 10


def test_eager_engines_choose_beside_the_device(folder: Path, expected: dict[str, Answer]) -> None:
    ops = LateOps()
    assert answers(ops, folder, is_eager=True) == expected
    assert not ops.steps


def test_an_answer_that_ends_early_is_computed_once_more_and_no_further(
    folder: Path, expected: dict[str, Answer]
) -> None:
    """Its stop token is known when the step behind it is on its way."""
    said = expected["drawn"].token_ids
    place = next(i for i in range(3, len(said)) if said[i] not in said[:i])
    stopping = replace(DRAWN, stop_token_ids=[said[place]])
    requests = tuple(
        replace(each, sampling=stopping) if each.name == "drawn" else each for each in ASKED
    )
    ops = LateOps()
    found = answers(ops, folder, requests)
    assert found["drawn"].token_ids == said[: place + 1]
    assert found["drawn"].finish_reason == "stop"
    for name in ("greedy", "late", "long"):
        assert found[name] == expected[name]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.0, logprobs=1),
        SamplingParams(temperature=0.0, prompt_logprobs=0),
        SamplingParams(temperature=0.8, presence_penalty=0.5),
        SamplingParams(temperature=0.8, logit_bias={3: 4.0}),
        SamplingParams(temperature=0.8, allowed_token_ids=[1, 2, 3]),
    ],
    ids=["logprobs", "prompt_logprobs", "penalty", "bias", "allowed"],
)
def test_what_the_device_cannot_do_is_done_beside_it(folder: Path, params: SamplingParams) -> None:
    """While such a request is there; before and after it the device goes on by itself."""
    requests = (asked("plain", 6, DRAWN, max_tokens=16), asked("late", 5, params, max_tokens=4))
    ops = LateOps()
    expected = answers(ReferenceOps(np.float32), folder, requests)
    found = answers(ops, folder, requests)
    for name, wanted in expected.items():
        assert found[name].token_ids == wanted.token_ids
        for kind in ("logprobs", "prompt_logprobs"):
            pairs = zip(getattr(found[name], kind), getattr(wanted, kind), strict=True)
            for mine, theirs in pairs:
                assert mine.logprob == pytest.approx(theirs.logprob, abs=LOGPROBS)
    (steps,) = ops.steps
    assert 0 < steps.num_ahead < 15


def test_a_vector_and_tokens_in_turn(folder: Path) -> None:
    requests = (
        asked("plain", 6, PLAIN, max_tokens=12),
        asked("late", 5, SamplingParams(), pooling="mean"),
    )
    expected = answers(ReferenceOps(np.float32), folder, requests)
    found = answers(LateOps(), folder, requests)
    assert found["plain"].token_ids == expected["plain"].token_ids
    np.testing.assert_allclose(found["late"].vector, expected["late"].vector, atol=LOGPROBS)


def make_runner(model: Llama) -> ModelRunner:
    cache = model.ops.allocate_kv(model.config.attention, num_blocks=8, block_size=16)
    return ModelRunner(model, cache, model.ops)


def without_row(model: Llama, token_id: int) -> Llama:
    """The embedding of one token is no numbers."""
    table = model.weights.embed
    data = table.data.copy()
    data[token_id] = 0xFF
    return Llama(model.ops, model.config, replace(model.weights, embed=replace(table, data=data)))


def piece(name: str, tokens: list[int], start: int, block: int) -> ScheduledRequest:
    return ScheduledRequest(name, tokens, start, [block], 1, is_sampled=True)


def test_a_row_without_a_choice_fails_alone_and_late(folder: Path) -> None:
    """The step behind it is on its way already, and computes the failed request for nothing."""
    runner = make_runner(without_row(load_model(folder, LateOps()), 5))
    prompts = {"good": [1, 2, 3], "bad": [4, 5]}
    new = tuple(NewRequest(name, ids, PLAIN, 3) for name, ids in prompts.items())
    first = tuple(piece(name, ids, 0, block) for block, (name, ids) in enumerate(prompts.items()))
    behind = tuple(piece(row.request_id, [UNKNOWN_TOKEN], len(row.token_ids), row.block_ids[0])
                   for row in first)  # fmt: skip
    runner.submit(SchedulerOutput(1, first, new))
    runner.submit(SchedulerOutput(2, behind))
    one, two = runner.collect(), runner.collect()
    assert one.rows["bad"].error == two.rows["bad"].error == DAMAGED
    assert not one.rows["bad"].token_ids and not one.rows["bad"].is_callers_fault
    assert len(one.rows["good"].token_ids) == len(two.rows["good"].token_ids) == 1


def test_a_token_that_nothing_chooses_is_an_error(folder: Path) -> None:
    runner = make_runner(load_model(folder, LateOps()))
    new = NewRequest("a", [1, 2], PLAIN, 3)
    with pytest.raises(RuntimeError, match="No step chooses a token for 'a'"):
        runner.submit(SchedulerOutput(1, (piece("a", [UNKNOWN_TOKEN], 2, 0),), (new,)))
