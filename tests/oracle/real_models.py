"""transformers models in float32 with the weights of a GGUF file: the oracle of real models.

In: a GGUF file. Out: a transformers model built from the file's own numbers, its weights
dequantized (bit for bit what ggml computes; proved in tests/unit/quant). No network.
Tensor names come from the gguf package's table, configs are written out here: nothing of
headrace's models is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)
from transformers.initialization import no_init_weights

from headrace.weights.gguf import GgufReader

ARCHITECTURES = {"qwen2": gguf.MODEL_ARCH.QWEN2, "gemma3": gguf.MODEL_ARCH.GEMMA3}


def real_model(path: Path) -> PreTrainedModel:
    """The oracle of a Qwen 2 or Gemma 3 file. Takes 4 bytes per weight."""
    reader = GgufReader(path)
    config = config_of(reader.metadata)
    config._attn_implementation = "eager"
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.tie_weights()
    names = gguf.get_tensor_name_map(ARCHITECTURES[reader.architecture], config.num_hidden_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            file_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
            values = torch.from_numpy(reader.tensor(file_name).dequantize())
            if reader.architecture == "gemma3" and name.endswith("norm.weight"):
                values = values - 1
            parameter.copy_(values)
    reader.close()
    return model


def config_of(metadata: Mapping[str, object]) -> PreTrainedConfig:
    """The file's numbers as a transformers config."""
    arch = metadata["general.architecture"]
    keys: dict[str, Any] = {key.removeprefix(f"{arch}."): metadata[key] for key in metadata}
    common = {
        "vocab_size": len(keys["tokenizer.ggml.tokens"]),
        "hidden_size": keys["embedding_length"],
        "intermediate_size": keys["feed_forward_length"],
        "num_hidden_layers": keys["block_count"],
        "num_attention_heads": keys["attention.head_count"],
        "num_key_value_heads": keys["attention.head_count_kv"],
        "max_position_embeddings": keys["context_length"],
        "rms_norm_eps": float(np.float32(keys["attention.layer_norm_rms_epsilon"])),
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if arch == "qwen2":
        rope = {"rope_type": "default", "rope_theta": keys["rope.freq_base"]}
        # The 0.5B and 1.5B files hold their head on its own, as large as the embedding.
        return Qwen2Config(**common, rope_parameters=rope, tie_word_embeddings=False)
    return Gemma3TextConfig(
        **common,
        head_dim=keys["attention.key_length"],
        query_pre_attn_scalar=keys["attention.key_length"],
        sliding_window=keys["attention.sliding_window"],
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": keys["rope.freq_base"]},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    )
