"""Adapters over tiny models of every architecture against transformers with merged weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.ops.table import make_ops
from oracle import transformers_logits
from oracle.adapted_driver import AdaptedDriver
from oracle.gguf_export import export
from oracle.isas import require_isa
from oracle.tiny_adapters import ALL, FUSED, draw
from oracle.tiny_models import build, case, save, token_ids

FLOAT32_LOGITS = 2e-4
"""Merging rounds weights once more than the base without adapters (1e-4)."""
RELATIVE_ERROR = 0.02
"""As in test_cpu_parity.py: keys and values of bfloat16."""
NAMES = (
    "llama",
    "llama-one-kv-head",
    "qwen2-tied",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "qwen2-moe",
)
TARGETS = {"phi3": FUSED, "qwen2-moe": ("q_proj", "k_proj", "v_proj", "o_proj")}


def architecture_of(name: str) -> str:
    kind = case(name).config().model_type
    return {"gemma3_text": "gemma3", "qwen2_moe": "qwen2moe"}.get(kind, kind)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_merged_weights(name: str, tmp_path: Path) -> None:
    model = build(case(name))
    adapter = draw(model, seed=3, targets=TARGETS.get(name, ALL))
    driver = AdaptedDriver(
        save(model, tmp_path / "model"),
        ReferenceOps(np.float32),
        adapter.save(tmp_path / "adapter"),
        architecture_of(name),
    )
    expected = transformers_logits.logits(adapter.merge(model), token_ids())
    plain = transformers_logits.logits(model, token_ids())
    actual = driver.run(token_ids(), [33, 1, 20])
    np.testing.assert_allclose(actual, expected, atol=FLOAT32_LOGITS)
    assert np.abs(plain - expected).max() > 100 * FLOAT32_LOGITS


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", "amx"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "phi3"])
def test_logits_of_the_kernels_are_close(name: str, isa: str, tmp_path: Path) -> None:
    require_isa(isa)
    model = build(case(name))
    targets = FUSED if name == "phi3" else ALL
    adapter = draw(model, seed=4, targets=targets, rank=5, alpha=2.5)
    driver = AdaptedDriver(
        save(model, tmp_path / "model"),
        make_ops("cpu", isa=isa, num_threads=2),
        adapter.save(tmp_path / "adapter"),
        architecture_of(name),
    )
    expected = transformers_logits.logits(adapter.merge(model), token_ids())
    errors = np.mean((driver.run(token_ids(), [33, 1, 20]) - expected) ** 2)
    assert np.sqrt(errors) / expected.std() < RELATIVE_ERROR


@pytest.mark.parametrize("base", ["folder", "gguf"])
@pytest.mark.parametrize("kind", ["folder", "gguf"])
@pytest.mark.parametrize("name", ["llama", "phi3", "qwen2-tied"])
def test_every_kind_of_file_goes_over_every_kind_of_base(
    name: str, kind: str, base: str, tmp_path: Path
) -> None:
    model = build(case(name))
    adapter = draw(model, seed=5, targets=FUSED if name == "phi3" else ALL)
    is_folder = kind == "folder"
    path = tmp_path / "adapter"
    written = adapter.save(path) if is_folder else adapter.export(path, model)
    place = tmp_path / "model"
    saved = save(model, place) if base == "folder" else export(model, place, {})
    driver = AdaptedDriver(saved, ReferenceOps(np.float32), written, architecture_of(name))
    expected = transformers_logits.logits(adapter.merge(model), token_ids())
    np.testing.assert_allclose(driver.run(token_ids(), [40]), expected, atol=FLOAT32_LOGITS)


def test_the_root_of_the_rank_and_alphas_of_modules(tmp_path: Path) -> None:
    model = build(case("llama"))
    adapter = draw(model, seed=6, targets=("q_proj", "up_proj"), rank=9, has_root_scale=True)
    doubled = {
        name: (a, 2 * b if name.endswith("1.mlp.up_proj") else b)
        for name, (a, b) in adapter.pairs.items()
    }
    expected = replace(adapter, pairs=doubled).merge(model)
    folder = adapter.save(
        tmp_path / "adapter", alpha_pattern={"layers.1.mlp.up_proj": 2 * adapter.alpha}
    )
    driver = AdaptedDriver(
        save(model, tmp_path / "model"), ReferenceOps(np.float32), folder, "llama"
    )
    np.testing.assert_allclose(
        driver.run(token_ids(), [40]),
        transformers_logits.logits(expected, token_ids()),
        atol=FLOAT32_LOGITS,
    )
