"""Tiny models in float8 against transformers on the floats that they stand for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.ops.table import make_ops
from oracle import transformers_logits
from oracle.driver import Driver, load_model
from oracle.float8_checkpoints import FLOAT8_KINDS, Float8Kind, pack_float8
from oracle.tiny_models import build, case, save, token_ids

FLOAT32_LOGITS = 1e-4
BF16_ERROR = 0.03
"""Root of the mean square error over the deviation of the logits: weights rounded to bf16, and
keys and values of the kernels."""


@pytest.fixture(scope="module", params=FLOAT8_KINDS, ids=lambda kind: kind.name)
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Float8Kind, Path, np.ndarray]:
    """A folder whose layers are in float8, and the logits of its floats."""
    kind: Float8Kind = request.param
    model = build(case("qwen2"))
    state = model.state_dict()
    tensors, floats = {}, {}
    for name, value in state.items():
        if ".layers." in name and name.endswith("proj.weight"):
            packed = pack_float8(kind, value)
            stem = name.removesuffix(".weight")
            tensors |= {stem + suffix: part for suffix, part in packed.tensors.items()}
            floats[name] = torch.from_numpy(packed.floats)
        else:
            tensors[name] = value.clone()
    folder = save(model, tmp_path_factory.mktemp(kind.name))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": kind.config}))
    save_file(tensors, folder / "model.safetensors")
    model.load_state_dict(state | floats)
    return kind, folder, transformers_logits.logits(model, token_ids())


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - wanted) ** 2)) / wanted.std())


def test_logits_equal_those_of_the_floats(
    checkpoint: tuple[Float8Kind, Path, np.ndarray],
) -> None:
    kind, folder, expected = checkpoint
    logits = Driver(load_model(folder, ReferenceOps(np.float32))).run(token_ids(), [50, 25])
    if kind.block:  # rounded to bf16
        assert relative(logits, expected) < BF16_ERROR
    else:
        np.testing.assert_allclose(logits, expected, atol=FLOAT32_LOGITS)


def test_the_kernels_read_them_as_bf16(checkpoint: tuple[Float8Kind, Path, np.ndarray]) -> None:
    _, folder, expected = checkpoint
    driver = Driver(load_model(folder, make_ops("cpu", num_threads=1)), block_size=32)
    assert relative(driver.run(token_ids(), [50, 25]), expected) < BF16_ERROR
