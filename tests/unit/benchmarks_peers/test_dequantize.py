"""bf16 folders hold what the GGUF file holds, under the names that transformers reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dequantize import bf16_weights

from headrace.core.errors import UnsupportedFormat
from headrace.weights.gguf import GgufReader
from oracle.gguf_export import export
from oracle.tiny_models import build, case

FORMATS = {"token_embd": "q8_0", "attn_q": "q4_0", "attn_v": "q8_0", "ffn_down": "q5_0"}


@pytest.mark.parametrize("name", ["qwen2", "qwen2-tied", "gemma3", "llama"])
def test_every_weight_is_that_of_the_file_in_bf16(name: str, tmp_path: Path) -> None:
    model = build(case(name))
    reader = GgufReader(export(model, tmp_path / "model.gguf", FORMATS))
    found = dict(bf16_weights(reader, model.config))
    reader.close()
    wanted = model.state_dict()
    if model.config.tie_word_embeddings:
        del wanted["lm_head.weight"]
    assert found.keys() == wanted.keys()
    for tensor, value in found.items():
        # Gemma's norms lie in the file with 1 added: what float32 drops there may move a bf16 step.
        step = 2**-8 if "norm" in tensor and name == "gemma3" else 0.0
        rounded = wanted[tensor].to(torch.bfloat16)
        torch.testing.assert_close(value, rounded, rtol=step, atol=step * 2**-14, msg=tensor)


def test_fused_tensors_are_refused(tmp_path: Path) -> None:
    model = build(case("phi3"))
    reader = GgufReader(export(model, tmp_path / "model.gguf", {}))
    with pytest.raises(UnsupportedFormat, match="fused"):
        dict(bf16_weights(reader, model.config))
    reader.close()
