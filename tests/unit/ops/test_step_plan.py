"""Recorded steps: what a plan refuses, and what it and its results keep alive."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from headrace.core.step import ScheduledRequest
from headrace.executor.input_batch import flatten
from headrace.models.llama import Llama
from headrace.ops.protocol import KVCache
from headrace.ops.step_inputs import StepInputs
from headrace.ops.table import make_ops
from oracle.driver import load_model
from oracle.isas import require_isa
from oracle.tiny_models import CASES, TinyModel, build, save, token_ids

Replay = Callable[[StepInputs], Sequence[np.ndarray]]


MIXTURES = ("mixtral", "qwen2-moe", "qwen3-moe")


@pytest.fixture(
    params=[tiny for tiny in CASES if tiny.name not in MIXTURES], ids=lambda tiny: tiny.name
)
def model(request: pytest.FixtureRequest, tmp_path: Any) -> Llama:
    tiny: TinyModel = request.param
    require_isa("generic")
    return load_model(save(build(tiny), tmp_path / "model"), make_ops("cpu", num_threads=2))


def allocate(model: Llama) -> KVCache:
    return model.ops.allocate_kv(model.config.attention, num_blocks=6, block_size=32)


def record(model: Llama, cache: KVCache) -> Replay:
    def forward(ops: Any, step: StepInputs) -> Sequence[Any]:
        hidden = model.over(ops).forward(step, cache)
        return hidden.h, hidden.add

    replay = model.ops.record(forward)
    assert replay is not None
    return replay


def step_of(*lengths: int, num_computed: int = 0, num_logit_rows: int = 1) -> StepInputs:
    """A request per length, each with two blocks."""
    return flatten(
        [
            ScheduledRequest(
                f"r{index}",
                token_ids(length, seed=index),
                num_computed,
                [2 * index, 2 * index + 1],
                min(num_logit_rows, length),
                True,
            )
            for index, length in enumerate(lengths)
        ],
        block_size=32,
    )


STEPS = (
    step_of(40, 40, 40),  # all that later steps read is written
    step_of(7, 33),
    step_of(1, 1, 1, num_computed=33),
    step_of(5, 1, num_computed=40, num_logit_rows=5),
    step_of(1, num_computed=45),
)
"""Prompts, answers, both; all rows wanted and a few."""


def test_every_step_has_the_bits_of_single_calls(model: Llama) -> None:
    eager_cache, cache = allocate(model), allocate(model)
    replay = record(model, cache)
    for step in STEPS:
        expected = model.forward(step, eager_cache)
        h, add = replay(step)
        assert h.shape == add.shape == (len(step.logit_rows), model.config.hidden_size)
        np.testing.assert_array_equal(h, expected.h)
        np.testing.assert_array_equal(add, expected.add)


def test_a_plan_keeps_what_it_reads_and_results_outlive_it(model: Llama) -> None:
    expected = record(model, allocate(model))(STEPS[1])
    expected = [array.copy() for array in expected]
    replay = record(model, allocate(model))
    del model
    gc.collect()
    results = replay(STEPS[1])
    again = replay(STEPS[1])  # earlier results are not written over
    del replay
    gc.collect()
    for result, repeated, wanted in zip(results, again, expected, strict=True):
        np.testing.assert_array_equal(result, wanted)
        np.testing.assert_array_equal(repeated, wanted)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "token": ({"token_ids": [1, 10**6]}, IndexError, "token id 1000000"),
    "negative token": ({"token_ids": [1, -1]}, IndexError, "token id -1"),
    "position": ({"positions": [0, 5]}, IndexError, "position 5"),
    "slot": ({"slot_mapping": [0, 192]}, IndexError, "slot 192"),
    "block": ({"block_table": [[6, 1]]}, IndexError, "block table"),
    "length": ({"seq_lens": [65]}, IndexError, "block table"),
    "row": ({"logit_rows": [2]}, IndexError, "logit row 2"),
    "rows twice": ({"logit_rows": [1, 1]}, IndexError, "logit row 1"),
    "too many rows": ({"logit_rows": [0, 1, 1]}, ValueError, "logit_rows"),
    "positions": ({"positions": [0]}, ValueError, "positions"),
    "slots": ({"slot_mapping": [0]}, ValueError, "slot_mapping"),
    "starts": ({"query_start": [0, 1]}, ValueError, "query_start"),
    "starts of more": ({"query_start": [0, 1, 2]}, ValueError, "query_start"),
    "tables": ({"block_table": [[0, 1], [2, 3]]}, ValueError, "block_table"),
}


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    """One plan for all bad arrays: a refusal leaves nothing behind."""
    require_isa("generic")
    folder = save(build(CASES[0]), tmp_path_factory.mktemp("model"))
    model = load_model(folder, make_ops("cpu"))
    return record(model, allocate(model))


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_arrays_that_do_not_fit_are_refused(
    case: tuple[dict[str, Any], type[Exception], str], replay: Replay
) -> None:
    changed, error, message = case
    arrays = {name: np.array(values, np.int32) for name, values in changed.items()}
    with pytest.raises(error, match=message):
        replay(replace(step_of(2), **arrays))
    replay(step_of(2))
