"""Where tensors are: a model's steps on a device other than the host's, whose tensors hold nothing.

Operators over tensors of two devices are refused, and values that the host would have to wait for;
every launch's tensors are looked at. No kernel runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import GridExecutor

from headrace.executor.model_runner import ModelRunner
from headrace.ops.cuda import sampling
from headrace.ops.cuda.cuda_ops import CudaOps
from headrace.ops.step_inputs import StepInputs
from kernels.cases import SAMPLE_SETTINGS, sample_inputs, token_lists
from oracle.driver import load_model
from oracle.tiny_models import build, case, save

MODELS = ("llama", "qwen2", "qwen3", "gemma3-small", "phi3-longrope")


class DeviceOnly(TorchDispatchMode):
    """Refuses operators over tensors of both places, but for copies; all that touch the host's
    while something is captured.
    """

    is_capturing = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = [leaf for leaf in tree_leaves((args, kwargs, result)) if is_array(leaf)]
        places = {leaf.device.type for leaf in leaves}
        is_copy = func.overloadpacket.__name__ in ("_to_copy", "copy_")
        assert len(places) < 2 or (is_copy and not self.is_capturing), f"{func} of {places}"
        assert not self.is_capturing or "cpu" not in places, f"{func} in a capture"
        return result


def is_array(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.dim() > 0


class InPlaceGraph:
    """A capture in which the host may touch nothing: no tensor of its own, no wait."""

    def capture(self, run: Callable[[], Sequence[torch.Tensor]]) -> Sequence[torch.Tensor]:
        run()
        DeviceOnly.is_capturing = True
        try:
            return run()
        finally:
            DeviceOnly.is_capturing = False

    def replay(self) -> None:
        pass


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the kernels that were launched, each with all its tensors on the device."""
    names: list[str] = []

    def launch(executor: Any, *args: Any, **kwargs: Any) -> None:
        name = executor.fn.__name__
        for place, arg in enumerate(args):
            if isinstance(arg, torch.Tensor):
                assert arg.device.type == "meta", f"{name} reads host memory in argument {place}"
                assert arg.dim() < 1 or arg.stride(-1) == 1 or arg.numel() <= 1, f"{name}, {place}"
            else:
                # A scalar of numpy would be compiled as another type than a plain one.
                assert type(arg) in (int, float, bool), f"{name}, argument {place}"
        names.append(name)

    monkeypatch.setattr(GridExecutor, "__call__", launch)
    with DeviceOnly():
        yield names


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build(case(request.param)), tmp_path_factory.mktemp(request.param))


def step(new: list[int], past: list[int]) -> StepInputs:
    starts = np.concatenate([[0], np.cumsum(new)]).astype(np.int32)
    tokens = np.zeros(starts[-1], np.int32)
    lengths = np.add(new, past, dtype=np.int32)
    table = np.arange(3 * len(new), dtype=np.int32).reshape(-1, 3)
    return StepInputs(tokens, tokens, tokens, starts, lengths, table, starts[1:] - 1)


@pytest.mark.parametrize("dtype", ["bf16", "int8", "fp8"])
def test_steps_stay_on_the_device(folder: Path, dtype: Any, launches: list[str]) -> None:
    ops = CudaOps("meta", torch.bfloat16, InPlaceGraph)
    model = load_model(folder, ops)
    cache = ops.allocate_kv(model.config.attention, 64, 32, dtype)

    def forward(given: Any, sent: Any) -> Sequence[torch.Tensor]:
        hidden = model.over(given).forward(sent, cache)
        return hidden.h, hidden.add

    replay = ops.record(forward)
    assert replay is not None
    for new, past in (([9, 30], [0, 0]), ([1, 4], [9, 30]), ([1], [10]), ([1] * 11, [10] * 11)):
        hidden = replay(step(new, past))
        assert [part.shape for part in hidden] == [(len(new), model.config.hidden_size)] * 2
        assert {part.device.type for part in hidden} == {"meta"}
        assert {part.dtype for part in hidden} == {torch.bfloat16}
    assert {"attention_kernel", "store_kv_kernel", "rope_kernel", "rms_norm_kernel"} <= set(
        launches
    )


def test_steps_go_on_to_their_tokens_on_the_device(folder: Path, launches: list[str]) -> None:
    """Without a wait, and with one copy to the device."""
    ops = CudaOps("meta", torch.bfloat16, InPlaceGraph)
    model = load_model(folder, ops)
    runner = ModelRunner(model, ops.allocate_kv(model.config.attention, 64, 32, "bf16"), ops)
    run = ops.record_choices(runner._recorded_logits)
    assert run is not None
    for new, past in (([9, 30], [0, 0]), ([1, 1], [9, 30]), ([1] * 70, [10] * 70)):
        inputs = sample_inputs([SAMPLE_SETTINGS[0]] * len(new), np.zeros(len(new)), np.array(past))
        run(step(new, past), np.full(sum(new), -1, np.int32), inputs)
    assert {"take_tokens_kernel", "attention_kernel", "sample_kernel"} <= set(launches)


def test_steps_of_float8_stay_on_the_device(
    tmp_path_factory: pytest.TempPathFactory, launches: list[str]
) -> None:
    """Products of float8 are asked for as the library takes them: layouts, scales, dtypes."""
    folder = save(build(case("qwen2")), tmp_path_factory.mktemp("float8"))
    ops = CudaOps("meta", torch.bfloat16, InPlaceGraph, has_float8=True)
    model = load_model(folder, ops, is_rounded=True)
    cache = ops.allocate_kv(model.config.attention, 64, 32, "fp8")
    assert cache.layers[0].k.data.dtype == torch.float8_e4m3fn

    def forward(given: Any, sent: Any) -> Sequence[torch.Tensor]:
        hidden = model.over(given).forward(sent, cache)
        return hidden.h, hidden.add

    replay = ops.record(forward)
    assert replay is not None
    for new, past in (([9, 30], [0, 0]), ([1], [10]), ([1] * 11, [10] * 11)):
        launches.clear()
        hidden = replay(step(new, past))
        assert {part.dtype for part in hidden} == {torch.bfloat16}
        kernels = {"quantize_rows_kernel", "gate_kernel"}
        assert kernels & set(launches) == (set() if sum(new) <= 8 else kernels)
        # The last layer computes the rows that logits are wanted of.
        assert ("float_gemv_kernel" in launches) == (len(new) <= 8)


def test_choices_are_made_on_the_device(launches: list[str]) -> None:
    ops = CudaOps("meta", torch.bfloat16, InPlaceGraph)
    logits = torch.empty((3, 500), device="meta")
    lists = token_lists([{3: 1.0}, {}, {4: 2.0, 7: 1.0}])
    inputs = sample_inputs(
        list(SAMPLE_SETTINGS[:3]), np.zeros(3), np.zeros(3), bias=lists, prompt_counts=lists,
        output_counts=lists, token_mask=np.zeros((3, 16), np.uint32),
    )  # fmt: skip
    ops.adjust_logits(logits, inputs)
    assert sampling.sample(logits, inputs).device.type == "meta"
    ids = torch.zeros(3, dtype=torch.int32, device="meta")
    assert {part.device.type for part in sampling.logprobs(logits, ids, 4)} == {"meta"}
    assert launches == ["mask_kernel", "adjust_kernel", "sample_kernel", "logprobs_kernel"]
