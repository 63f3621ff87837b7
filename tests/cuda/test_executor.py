"""Tiny models through the engine on interpreted kernels, beside numpy and the C++ kernels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fakes.fake_graph import FakeGraph
from headrace.core.request import SamplingParams
from headrace.executor.memory import weights_bytes
from headrace.models.registry import model_class
from headrace.ops.cuda.cuda_ops import CudaOps
from headrace.ops.cuda.packing import Float8Matrix
from headrace.ops.cuda.step_replay import bucket_size
from headrace.ops.protocol import Ops
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.ops.table import make_ops
from headrace.quant.quantize import quantize
from headrace.weights.rounded_reader import RoundedReader
from headrace.weights.weight_reader import open_weights
from oracle.driver import Driver, load_model
from oracle.engine_driver import Answer, Asked, EngineDriver, Setting
from oracle.tiny_models import build, case, save, token_ids

FLOAT_ERROR = 3e-5
"""Logits over their deviation: float32 sums in another order, three layers."""
CPU_ERROR = 0.03
"""Log-probabilities against the C++ kernels, which keep keys and values in bfloat16."""
FLOAT8_FLIPS = 0.02
"""A key or value at the middle between two codes may go either way, by a sixteenth."""
MODELS = ("qwen2", "qwen3", "gemma3-small", "phi3-longrope")
"""Biases and key shifts; norms of q and k; windows and post norms; a part of each head turned."""


def folder_of(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build(case(name)), tmp_path_factory.mktemp(name))


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_reference(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A prompt in two chunks, then a token alone; blocks shuffled."""
    folder = folder_of(name, tmp_path_factory)
    prompt = token_ids(10)

    def logits(ops: Ops) -> np.ndarray:
        driver = Driver(load_model(folder, ops), num_blocks=4, block_size=16)
        return driver.run(prompt, [6, 3, 1])

    expected = logits(ReferenceOps(np.float32))
    error = np.abs(logits(CudaOps("cpu", torch.float32)) - expected).max() / expected.std()
    assert error < FLOAT_ERROR


@pytest.mark.parametrize("name", ["qwen2", "gemma3-small"])
def test_float8_weights_and_cache(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Kernels that read float8 and round to it; products of both roundings are tested alone."""
    folder = folder_of(name, tmp_path_factory)

    def logits(ops: Ops) -> np.ndarray:
        model = load_model(folder, ops, is_rounded=True)
        driver = Driver(model, num_blocks=4, block_size=16, kv_cache_dtype="fp8")
        return driver.run(token_ids(10), [6, 3, 1])

    expected = logits(ReferenceOps(np.float32))
    error = np.abs(logits(CudaOps("cpu", torch.float32)) - expected).max() / expected.std()
    assert error < FLOAT8_FLIPS


def test_the_plan_counts_float8(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, ops = folder_of("llama", tmp_path_factory), CudaOps("cpu", torch.float16)
    reader = open_weights(folder)
    config = model_class(reader.architecture).config_from_huggingface(reader.metadata)
    plain, rounded = (
        sum(ops.packed_bytes(each.outline(name)) for name in each.names() if ".layers." in name)
        for each in (reader, RoundedReader(reader))
    )
    assert 0.45 < rounded / plain < 0.6
    planned = weights_bytes(config, RoundedReader(reader), ops, max_positions=0)
    model = load_model(folder, ops, is_rounded=True)
    linears = [getattr(layer, linear) for layer in model.weights.layers
               for linear in ("qkv", "o", "gate_up", "down")]  # fmt: skip
    matrices = [matrix for linear in linears for matrix in linear.matrices]
    assert all(isinstance(matrix, Float8Matrix) for matrix in matrices)
    assert sum(matrix.num_bytes for matrix in matrices) < rounded < planned


def test_the_plan_counts_what_products_and_graphs_take() -> None:
    """A matrix widened whole, with the one it is fused with; a pool for the largest bucket."""
    ops = CudaOps("cpu", torch.float16)
    matrices = [quantize(np.zeros((rows, 256), np.float32), "q4_k") for rows in (32, 96)]
    floats = [quantize(np.zeros((512, 256), np.float32), "f16")]
    bare, widened = ops.extra_scratch_bytes(floats, 0, 1000, 7), 2 * 2 * 96 * 256
    assert ops.extra_scratch_bytes([*matrices, *floats], 0, 1000, 7) == bare + widened
    assert ops.extra_scratch_bytes(floats, 100, 1000, 7) == bare + 128 * 1000 + 7
    # Up to 64 rows are multiplied as they are packed; more are widened in the graphs' pool too.
    for rows, times in ((64, 1), (65, 2)):
        more = times * widened + bucket_size(rows) * 1000 + 7
        assert ops.extra_scratch_bytes(matrices, rows, 1000, 7) == bare + more
    for has_products, extra in ((True, 0), (False, 2 * 2 * 64 * 256)):
        ops = CudaOps("cpu", torch.float16, has_float8=has_products)
        float8 = [quantize(np.zeros((64, 256), np.float32), "f8_e4m3")]
        assert ops.extra_scratch_bytes(float8, 0, 1000, 7) == bare + extra


def test_a_tied_head_is_the_embedding_as_the_plan_says(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A matrix of a third of a small model's size would be there twice, and planned once."""
    folder, ops = folder_of("qwen2-tied", tmp_path_factory), CudaOps("cpu", torch.float16)
    reader = open_weights(folder)
    config = model_class(reader.architecture).config_from_huggingface(reader.metadata)
    assert config.is_head_tied
    weights = load_model(folder, ops).weights
    (head,) = weights.head.matrices
    assert head is weights.embed
    linears = [getattr(layer, linear) for layer in weights.layers
               for linear in ("qkv", "o", "gate_up", "down")]  # fmt: skip
    layers = sum(matrix.num_bytes for linear in linears for matrix in linear.matrices)
    planned = weights_bytes(config, reader, ops, max_positions=0)
    assert 0.95 * planned < layers + head.num_bytes <= planned


ASKED = (
    Asked("greedy", tuple(token_ids(7)), SamplingParams(temperature=0.0, logprobs=2), max_tokens=4),
    Asked(
        "drawn",
        tuple(token_ids(4, seed=8)),
        SamplingParams(temperature=0.9, top_k=40, top_p=0.95, presence_penalty=0.3, logprobs=0),
        max_tokens=2,
    ),
    Asked("vector", tuple(token_ids(5, seed=9)), SamplingParams(), pooling="mean"),
)


def answers(folder: Path, ops: Ops, **setting: bool) -> dict[str, Answer]:
    driver = EngineDriver(load_model(folder, ops), Setting(num_blocks=8, **setting))
    return driver.generate(ASKED, {"drawn": 1})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of("llama", tmp_path_factory)


@pytest.fixture(scope="module")
def eager(folder: Path) -> dict[str, Answer]:
    return answers(folder, CudaOps("cpu", torch.float32), is_eager=True)


def test_answers_are_those_of_the_cpu_backend(folder: Path, eager: dict[str, Answer]) -> None:
    """Scheduler, runner, sampling, log-probabilities and pooling, end to end."""
    expected = answers(folder, make_ops("cpu", num_threads=1))
    for name, wanted in expected.items():
        found = eager[name]
        assert found.error is None
        assert found.token_ids == wanted.token_ids
        for mine, theirs in zip(found.logprobs, wanted.logprobs, strict=True):
            assert mine.logprob == pytest.approx(theirs.logprob, abs=CPU_ERROR)
    assert len(expected["greedy"].token_ids) == 4
    # The C++ kernels have it from keys and values in bfloat16.
    np.testing.assert_allclose(eager["vector"].vector, expected["vector"].vector, atol=0.05)


def test_a_replayed_graph_gives_the_bits_of_eager(folder: Path, eager: dict[str, Answer]) -> None:
    """Decode steps of one and two requests run in two buckets, each captured once."""
    graphs: list[FakeGraph] = []

    def make_graph() -> FakeGraph:
        graphs.append(FakeGraph())
        return graphs[-1]

    found = answers(folder, CudaOps("cpu", torch.float32, make_graph))
    assert found == eager
    assert len(graphs) == 2
    assert [graph.num_replays for graph in graphs] == [1, 1]


PLAIN = (
    Asked("greedy", tuple(token_ids(7)), SamplingParams(temperature=0.0), max_tokens=6),
    Asked(
        "drawn",
        tuple(token_ids(4, seed=8)),
        SamplingParams(temperature=0.9, top_k=40, top_p=0.95, min_p=0.01),
        max_tokens=5,
    ),
    Asked("late", tuple(token_ids(18, seed=9)), SamplingParams(temperature=0.7), max_tokens=3),
)


def plain_answers(
    folder: Path, ops: Ops, asked: tuple[Asked, ...] = PLAIN, **setting: bool
) -> dict[str, Answer]:
    """Requests that the device chooses for; `late` comes while others run, in two chunks."""
    limits = Setting(num_blocks=8, max_num_batched_tokens=12, **setting)
    driver = EngineDriver(load_model(folder, ops), limits)
    found = driver.generate(asked, {"drawn": 1, "late": 2})
    assert driver.manager.usage == 0.0
    return found


@pytest.fixture(scope="module")
def waited_for(folder: Path) -> dict[str, Answer]:
    """Steps one by one, tokens chosen beside the device."""
    return plain_answers(folder, CudaOps("cpu", torch.float32), is_eager=True)


@pytest.mark.parametrize("has_graphs", [False, True], ids=["eager", "graph"])
def test_answers_of_steps_planned_ahead_are_those_of_steps_one_by_one(
    folder: Path, waited_for: dict[str, Answer], has_graphs: bool
) -> None:
    """Tokens are chosen within the step, and the next one reads them there."""
    graphs: list[FakeGraph] = []

    def make_graph() -> FakeGraph:
        graphs.append(FakeGraph())
        return graphs[-1]

    found = plain_answers(folder, CudaOps("cpu", torch.float32, make_graph if has_graphs else None))
    assert found == waited_for
    assert [len(waited_for[each.name].token_ids) for each in PLAIN] == [6, 5, 3]
    assert bool(graphs) == has_graphs
    assert sum(graph.num_replays for graph in graphs) >= 3 * has_graphs


def test_a_stop_token_that_is_seen_late_ends_the_same_answer(
    folder: Path, waited_for: dict[str, Answer]
) -> None:
    said = waited_for["greedy"].token_ids
    stopping = replace(PLAIN[0].sampling, stop_token_ids=[said[2]])
    asked = (replace(PLAIN[0], sampling=stopping), *PLAIN[1:])
    found = plain_answers(folder, CudaOps("cpu", torch.float32, FakeGraph), asked)
    end = said.index(said[2]) + 1
    assert found["greedy"].token_ids == said[:end]
    assert found["drawn"] == waited_for["drawn"]
    assert found["late"] == waited_for["late"]
