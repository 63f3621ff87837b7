"""Random LoRA adapters of tiny models, as PEFT saves them and as llama.cpp converts them.

In: a transformers model. Out: a folder or a GGUF file; and the model with the adapter merged into
its weights, which is what the adapter must give.
Source: huggingface/peft, save_pretrained; llama.cpp, convert_lora_to_gguf.py.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from oracle.gguf_export import ARCHITECTURES, permute

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FUSED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


@dataclass(frozen=True)
class RandomAdapter:
    """Pairs a [r, in], b [out, r] by the name of a module, and what scales their products."""

    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    alpha: float
    has_root_scale: bool = False

    def scale(self, rank: int) -> float:
        return self.alpha / (math.sqrt(rank) if self.has_root_scale else rank)

    def merge(self, model: PreTrainedModel) -> PreTrainedModel:
        """A copy of the model with the products in its weights."""
        merged = copy.deepcopy(model)
        with torch.no_grad():
            for name, (a, b) in self.pairs.items():
                weight = merged.get_submodule(name).weight
                weight += self.scale(a.shape[0]) * (b.double() @ a.double()).float()
        return merged

    def save(self, folder: Path, **changes: Any) -> Path:
        """A PEFT folder. `changes` go over its config."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, (a, b) in self.pairs.items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = a.contiguous()
            tensors[f"base_model.model.{name}.lora_B.weight"] = b.contiguous()
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        first = next(iter(self.pairs.values()))[0]
        config = {
            "peft_type": "LORA",
            "base_model_name_or_path": "tiny",
            "r": first.shape[0],
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "use_rslora": self.has_root_scale,
            "use_dora": False,
            "target_modules": sorted({name.rpartition(".")[2] for name in self.pairs}),
            "fan_in_fan_out": False,
            "modules_to_save": None,
            "init_lora_weights": True,
        }
        (folder / "adapter_config.json").write_text(json.dumps(config | changes))
        return folder

    def export(self, path: Path, model: PreTrainedModel) -> Path:
        """A GGUF file. Rows of Llama's q and k are in its order, as those of its weights are."""
        config = model.config
        arch = ARCHITECTURES[config.model_type]
        writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", self.alpha)
        names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for name, (a, b) in self.pairs.items():
            file_name = names.get_name(name + ".weight", try_suffixes=(".weight",))
            array = b.numpy()
            if config.model_type in ("llama", "mixtral") and name.rpartition(".")[2] in heads:
                array = permute(array, heads[name.rpartition(".")[2]])
            writer.add_tensor(f"{file_name}.lora_a", np.ascontiguousarray(a.numpy()))
            writer.add_tensor(f"{file_name}.lora_b", np.ascontiguousarray(array))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def draw(
    model: PreTrainedModel,
    seed: int,
    targets: Sequence[str] = ALL,
    rank: int = 8,
    *,
    alpha: float = 12.0,
    has_root_scale: bool = False,
) -> RandomAdapter:
    """An adapter of every linear of these names, large enough to change what the model says."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in targets and isinstance(module, torch.nn.Linear):
            out, width = module.weight.shape
            a = torch.randn(rank, width, generator=generator) * width**-0.5
            b = torch.randn(out, rank, generator=generator) * 0.4
            pairs[name] = (a, b)
    assert pairs, targets
    return RandomAdapter(pairs, alpha, has_root_scale)
