"""Two processes over gloo, their kernels interpreted: a divided model beside the whole one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fakes import rank_program
from fakes.random_model import write_random_model
from headrace import LLM, SamplingParams
from headrace.executor.shard import Shard
from headrace.ops.cuda.cuda_ops import CudaOps
from oracle.tiny_models import build, case, save

TESTS = Path(__file__).parents[1]
FLOAT_ERROR = 3e-5
"""Logits over their deviation: float32 sums in another order."""
MODELS = ("llama", "qwen2", "gemma3-small")
FEW_LAYERS = {"num_hidden_layers": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("models")
    cases = [replace(each, changes=FEW_LAYERS | dict(each.changes)) for each in map(case, MODELS)]
    return [save(build(each), place / each.name) for each in cases]


def start(rank: int, *arguments: object) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(TESTS), *sys.path])
    return subprocess.Popen(
        [sys.executable, rank_program.__file__, str(rank), "2", *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


def test_logits_of_two_ranks_are_those_of_one(folders: list[Path], tmp_path: Path) -> None:
    ranks = [start(rank, tmp_path, *folders) for rank in range(2)]
    try:
        assert ranks[0].stdout is not None
        address = ranks[0].stdout.readline()
        for rank in ranks:
            assert rank.stdin is not None
            rank.stdin.write(address)
            rank.stdin.close()
        assert [rank.wait(280) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
            assert rank.stdout is not None
            rank.stdout.close()
    found = [np.load(tmp_path / f"{rank}.npz") for rank in range(2)]
    for folder in folders:
        whole = rank_program.logits(folder, CudaOps("cpu", torch.float32), Shard())
        error = np.abs(found[0][folder.name] - whole).max() / whole.std()
        assert error < FLOAT_ERROR, folder.name
        np.testing.assert_array_equal(found[0][folder.name], found[1][folder.name])


def answers(model: Path, **options: object) -> list[tuple[int, ...]]:
    params = [SamplingParams(max_tokens=3, temperature=t, seed=3, ignore_eos=True) for t in (0, 1)]
    with LLM(model, max_model_len=64, max_num_seqs=2, **options) as llm:
        found = llm.generate(["ab", "cde"], params)
    return [each.completions[0].token_ids for each in found]


def test_an_engine_over_two_processes_answers_as_numpy_does(tmp_path: Path) -> None:
    """The whole way: a second process is started, told what to load, and given every step."""
    model = write_random_model(tmp_path / "model", 1)
    expected = answers(model, device="reference")
    assert answers(model, device="cuda", tensor_parallel_size=2) == expected
