"""Tiny models from packed checkpoints against transformers on the floats that they stand for."""

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
from oracle.packed_checkpoints import KINDS, Kind, pack_matrix
from oracle.tiny_models import build, case, save, token_ids

FLOAT32_LOGITS = 1e-4
RELATIVE_ERROR = 0.06
"""Root of the mean square error over the deviation of the logits; activations as int8 cost about
0.04 in a model this narrow, nibbles in another order more than 0.5."""


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, np.ndarray]:
    """A folder whose layers are packed, and the logits of its floats."""
    kind: Kind = request.param
    model = build(case("qwen2"))
    state = model.state_dict()
    tensors, floats = {}, {}
    for name, value in state.items():
        if ".layers." in name and name.endswith("proj.weight"):
            packed = pack_matrix(kind, value.numpy())
            stem = name.removesuffix(".weight")
            tensors |= {stem + suffix: part for suffix, part in packed.tensors.items()}
            stored = packed.floats.astype(np.float16) if kind.is_shuffled else packed.floats
            floats[name] = torch.from_numpy(stored.astype(np.float32))
        else:
            tensors[name] = value.clone()
    folder = save(model, tmp_path_factory.mktemp(kind.name))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": kind.config}))
    save_file(tensors, folder / "model.safetensors")
    model.load_state_dict(state | floats)
    return folder, transformers_logits.logits(model, token_ids())


def test_logits_equal_those_of_the_floats(checkpoint: tuple[Path, np.ndarray]) -> None:
    folder, expected = checkpoint
    driver = Driver(load_model(folder, ReferenceOps(np.float32)))
    np.testing.assert_allclose(driver.run(token_ids(), [50, 25]), expected, atol=FLOAT32_LOGITS)


def test_the_kernels_read_them_too(checkpoint: tuple[Path, np.ndarray]) -> None:
    folder, expected = checkpoint
    driver = Driver(load_model(folder, make_ops("cpu", num_threads=1)), block_size=32)
    logits = driver.run(token_ids(), [50, 25])
    assert np.sqrt(np.mean((logits - expected) ** 2)) / expected.std() < RELATIVE_ERROR
