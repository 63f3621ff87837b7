"""A PEFT folder with a random LoRA adapter for `random_model`. Needs neither torch nor peft."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from fakes.random_model import INNER, NUM_LAYERS, WIDTH

SHAPES: Mapping[str, tuple[int, int]] = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH // 2, WIDTH),
    "self_attn.v_proj": (WIDTH // 2, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}
CONFIG: Mapping[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "random",
    "r": 4,
    "lora_alpha": 8,
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "init_lora_weights": True,
}


def write_random_adapter(
    folder: Path,
    seed: int = 1,
    num_layers: int = NUM_LAYERS,
    targets: Sequence[str] = tuple(SHAPES),
    rank: int = 4,
) -> Path:
    """Write config and weights. The same ones for a seed, large enough to change every answer."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for layer in range(num_layers):
        for target in targets:
            out, width = SHAPES[target]
            name = f"base_model.model.model.layers.{layer}.{target}"
            a = generator.standard_normal((rank, width), dtype=np.float32) * width**-0.5
            b = generator.standard_normal((out, rank), dtype=np.float32) * 0.3
            tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    return write_adapter(folder, tensors, r=rank)


def write_adapter(folder: Path, tensors: Mapping[str, np.ndarray], **changes: Any) -> Path:
    """Write any tensors, with `changes` over a plain config."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: np.ascontiguousarray(v) for key, v in tensors.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(dict(CONFIG) | changes))
    return folder
