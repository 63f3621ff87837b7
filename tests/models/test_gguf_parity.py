"""Tiny models from GGUF files written by the gguf package against transformers in float32.

Proves names, row order of Llama's q and k, norms with their 1 added, keys and quantized tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headrace.core.errors import UnsupportedFormat
from headrace.ops.reference.reference_ops import ReferenceOps
from oracle import transformers_logits
from oracle.driver import Driver, load_model
from oracle.gguf_export import export
from oracle.tiny_models import build, case, token_ids

FLOAT32_LOGITS = 1e-4
"""As for Hugging Face folders: sums in another order."""

PLAIN: Mapping[str, str] = {}
MIXED = {
    "token_embd": "q8_0",
    "attn_q": "q4_0",
    "attn_k": "q5_0",
    "attn_v": "q8_0",
    "attn_output": "q4_1",
    "ffn_gate": "q5_1",
    "ffn_up": "q4_0",
    "ffn_down": "f16",
    "output.weight": "bf16",
}
EXPERTS = {
    "attn_q": "q4_0",
    "ffn_gate_inp": "f32",
    "ffn_gate_exps": "q4_0",
    "ffn_up_exps": "q5_1",
    "ffn_down_exps": "q8_0",
}
BLOCKS_OF_256 = {"attn_q": "q4_k", "attn_k": "q5_k", "attn_v": "q6_k", "ffn_down": "q6_k"}
WIDE = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64}

CASES = (
    ("llama", PLAIN),
    ("llama", MIXED),
    ("llama-tied", MIXED),
    ("llama3-rope", PLAIN),
    ("llama-linear-rope", PLAIN),
    ("llama-one-kv-head", MIXED),
    ("llama-own-head-size", PLAIN),
    ("mixtral", EXPERTS),
    ("qwen2-moe", EXPERTS | {"shexp.": "q8_0"}),
    ("qwen3-moe", PLAIN),
    ("qwen2", MIXED),
    ("qwen2-tied", PLAIN),
    ("qwen3", MIXED),
    ("llama-yarn", PLAIN),
    ("gemma2", MIXED),
    ("gemma3-long", PLAIN),
    ("gemma3", PLAIN),
    ("gemma3", MIXED),
    ("phi3", MIXED | {"attn_qkv": "q5_1"}),
    ("phi3-window", PLAIN),
    ("phi3-longrope", PLAIN),
    ("phi4-mini", PLAIN),
)


def ids(value: object) -> str | None:
    if isinstance(value, str):
        return value
    return "f32" if value == PLAIN else "quantized"


@pytest.mark.parametrize(("name", "formats"), CASES, ids=ids)
def test_logits_equal_those_of_transformers(
    name: str, formats: Mapping[str, str], tmp_path: Path
) -> None:
    check(case(name), formats, tmp_path / "model.gguf")


def test_formats_with_blocks_of_256(tmp_path: Path) -> None:
    tiny = case("llama")
    check(replace(tiny, changes={**tiny.changes, **WIDE}), BLOCKS_OF_256, tmp_path / "model.gguf")


def check(tiny, formats: Mapping[str, str], path: Path) -> None:
    if tiny.name.startswith("gemma"):  # the file has no key for it, so the head size decides
        head_size = tiny.changes["head_dim"]
        tiny = replace(tiny, changes={**tiny.changes, "query_pre_attn_scalar": head_size})
    if tiny.name == "gemma3-long":  # nor for which layers are global: every sixth is
        kinds = ["sliding_attention"] * 5 + ["full_attention"]
        changes = {"num_hidden_layers": 6, "layer_types": kinds}
        tiny = replace(tiny, changes={**tiny.changes, **changes})
    model = build(tiny)
    export(model, path, formats)
    expected = transformers_logits.logits(model, token_ids())
    driver = Driver(load_model(path, ReferenceOps(np.float32)))
    np.testing.assert_allclose(driver.run(token_ids(), [33, 1]), expected, atol=FLOAT32_LOGITS)


def test_a_file_with_tensors_of_another_architecture_is_refused(tmp_path: Path) -> None:
    path = export(build(case("qwen3")), tmp_path / "model.gguf", PLAIN)
    data = path.read_bytes().replace(b"qwen3", b"qwen2")
    path.write_bytes(data)
    with pytest.raises(UnsupportedFormat, match="attn_q_norm"):
        load_model(path, ReferenceOps(np.float32))
