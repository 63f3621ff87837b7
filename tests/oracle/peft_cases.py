"""Adapters that peft itself made, over tiny models: what it wrote and what it computed.

`scripts/make_peft_outputs.py` made the files under `tests/golden/peft`; peft is not needed to read
them. Weights of the bases are drawn by numpy, name by name, so that they are the same whatever
version of transformers makes the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from oracle.tiny_models import build, case

GOLDEN = Path(__file__).parents[1] / "golden" / "peft"
NUM_TOKENS = 30
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class PeftCase:
    """A base of tiny_models and the arguments of LoraConfig. `dtype` of the saved matrices."""

    name: str
    base: str
    config: Mapping[str, Any]
    dtype: torch.dtype = torch.float32

    @property
    def folder(self) -> Path:
        return GOLDEN / self.name

    def expected(self) -> np.ndarray:
        """Logits by peft. Shapes: [NUM_TOKENS, V]."""
        return np.load(self.folder / "logits.npy")


@dataclass(frozen=True)
class RefusedCase:
    """What peft writes for a LoRA that is more than a product of two matrices."""

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return GOLDEN / "refused" / f"{self.name}.json"


CASES = (
    PeftCase("llama", "llama", {"r": 3, "lora_alpha": 9, "target_modules": ALL}),
    PeftCase(
        "qwen2-patterns",
        "qwen2",
        {
            "r": 4,
            "lora_alpha": 6,
            "target_modules": ALL,
            "use_rslora": True,
            "rank_pattern": {"layers.1.self_attn.q_proj": 2, "down_proj": 5},
            "alpha_pattern": {"layers.2.mlp.up_proj": 17, "v_proj": 11},
        },
    ),
    PeftCase(
        "qwen3-bf16",
        "qwen3",
        {"r": 2, "lora_alpha": 5, "target_modules": ATTENTION},
        torch.bfloat16,
    ),
    PeftCase(
        "phi3-some-layers",
        "phi3",
        {
            "r": 4,
            "lora_alpha": 12,
            "target_modules": ["qkv_proj", "gate_up_proj"],
            "layers_to_transform": [0, 2],
        },
    ),
)
REFUSED = (
    RefusedCase("use_dora", {"use_dora": True}),
    RefusedCase("modules_to_save", {"modules_to_save": ["lm_head"]}),
    RefusedCase("lora_bias", {"lora_bias": True}),
    RefusedCase("bias", {"bias": "lora_only"}),
    RefusedCase("init_lora_weights", {"init_lora_weights": "pissa"}),
    RefusedCase("layer_replication", {"layer_replication": [[0, 2], [1, 3]]}),
    RefusedCase("alpha_pattern", {"alpha_pattern": {r"layers\.[0-1]\..*_proj": 3}}),
)


def base_model(name: str) -> PreTrainedModel:
    """The model of a case of tiny_models, its weights drawn again."""
    model = build(case(name))
    with torch.no_grad():
        for index, (_, parameter) in enumerate(sorted(model.named_parameters())):
            drawn = np.random.default_rng(index).standard_normal(tuple(parameter.shape))
            is_vector = parameter.ndim == 1
            scaled = 1 + 0.3 * drawn if is_vector else 1.5 * drawn * parameter.shape[-1] ** -0.5
            parameter.copy_(torch.from_numpy(scaled.astype(np.float32)))
    model.tie_weights()
    return model
