"""A mix of formats: the budget holds, and bits go where the noise is."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.convert.format_plan import SourceTensor
from headrace.convert.mixed_plan import check_budget, plan_mixed
from headrace.core.errors import InvalidParameter, ModelFileError
from headrace.quant.format import FORMATS
from headrace.quant.quant_tensor import QuantTensor
from headrace.weights.gguf_writer import KeyValue

RNG = np.random.default_rng(0)
ROWS, WIDTH = 24, 512
SMOOTH = RNG.integers(0, 16, (ROWS, WIDTH)).astype(np.float32)  # what 4 bits can say
SMOOTH[:, ::32], SMOOTH[:, 1::32] = 0, 15
ROUGH = RNG.standard_normal((ROWS, WIDTH), dtype=np.float32)


class Tensors:
    """A source in memory."""

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        self._held = {name: QuantTensor.from_array(x) for name, x in tensors.items()}
        self.tensors = [SourceTensor(n, t.format, t.shape) for n, t in self._held.items()]

    def keys(self) -> Mapping[str, KeyValue]:
        return {}

    def tensor(self, name: str) -> QuantTensor:
        return self._held[name]

    def release(self) -> None:
        pass


def bits(plan: Mapping[str, str], source: Tensors) -> float:
    sizes = {tensor.name: math.prod(tensor.shape) for tensor in source.tensors}
    total = sum(sizes[name] * FORMATS[fmt].bits_per_weight for name, fmt in plan.items())
    return total / sum(sizes.values())


MODEL = Tensors(
    {
        "blk.0.attn_norm.weight": np.ones(WIDTH, np.float32),
        "blk.0.attn_q.weight": SMOOTH,
        "blk.0.ffn_down.weight": ROUGH,
        "blk.0.attn_output.weight": SMOOTH[:, :96].copy(),
    }
)


@settings(max_examples=10, deadline=None)
@given(budget=st.floats(5.2, 8.9))
def test_the_budget_is_never_exceeded(budget: float) -> None:
    plan = plan_mixed(MODEL, budget, {})
    assert bits(plan, MODEL) <= budget
    assert plan["blk.0.attn_norm.weight"] == "f32"


def test_more_bits_go_to_the_tensor_that_rounds_badly() -> None:
    plan = plan_mixed(MODEL, 5.7, {})
    rough, smooth = plan["blk.0.ffn_down.weight"], plan["blk.0.attn_q.weight"]
    assert FORMATS[rough].bits_per_weight > FORMATS[smooth].bits_per_weight


def test_a_large_budget_buys_the_top_of_every_ladder() -> None:
    plan = plan_mixed(MODEL, 8.94, {})
    assert {fmt for name, fmt in plan.items() if "norm" not in name} == {"q8_0"}


def test_importance_decides_between_equal_tensors() -> None:
    twins = Tensors({"a.weight": ROUGH, "b.weight": ROUGH.copy()})
    few = np.zeros(WIDTH, np.float32)
    few[::64] = 1  # one in two groups: scales can be chosen for it alone
    plan = plan_mixed(twins, 5.0, {"a.weight": few})
    assert FORMATS[plan["b.weight"]].bits_per_weight > FORMATS[plan["a.weight"]].bits_per_weight


def test_a_budget_below_four_bits_is_refused_with_the_least() -> None:
    with pytest.raises(InvalidParameter, match=r"--bits is nan; allowed: at least 5\.02"):
        plan_mixed(MODEL, math.nan, {})
    with pytest.raises(InvalidParameter, match=r"--bits is 3\.0; allowed: at least 5\.02"):
        plan_mixed(MODEL, 3.0, {})


@pytest.mark.parametrize("source", ["f32", "q8_0", "q4_k"])
def test_a_budget_that_no_mix_can_use_is_refused_with_the_most(source: str) -> None:
    tensors = [
        SourceTensor("a.weight", FORMATS[source], (64, 256)),
        SourceTensor("a_norm.weight", FORMATS["f32"], (256,)),
    ]
    top = 4.5 if source == "q4_k" else 8.5
    most = (64 * top + 32) / 65
    with pytest.raises(InvalidParameter, match=rf"at most {most + 0.005:.2f} for this model"):
        check_budget(tensors, most + 0.011)
    check_budget(tensors, round(most + 0.005, 2))  # as it is named


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e38])
def test_weights_that_cannot_be_rounded_are_named(wrong: float) -> None:
    broken = ROUGH.copy()
    broken[0, 7] = wrong
    with pytest.raises(ModelFileError, match=r"blk\.0\.ffn_down\.weight .* as q4_k"):
        plan_mixed(Tensors({"blk.0.ffn_down.weight": broken}), 6, {})
