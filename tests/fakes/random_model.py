"""A small Llama with random weights as a Hugging Face folder; its tokens are bytes. Needs no torch.

For servers under test: it starts at once, and a step takes some milliseconds, so that answers can
be caught in their middle.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from fakes.byte_tokenizer import BOS, EOS, byte_tokenizer

WIDTH, INNER, NUM_LAYERS, NUM_HEADS, VOCAB_SIZE = 512, 2048, 5, 8, 288

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": NUM_HEADS,
    "num_key_value_heads": NUM_HEADS // 2,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "torch_dtype": "float16",
}


def write_random_model(
    folder: Path,
    num_layers: int = NUM_LAYERS,
    chat_template: str | None = None,
    control_tokens: Sequence[str] = (),
    inner: int = INNER,
) -> Path:
    """Write config, weights and tokenizer. The same weights each time.

    `control_tokens` follow <bos> and <eos>.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIG | {"num_hidden_layers": num_layers, "intermediate_size": inner}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = byte_tokenizer(control_tokens)._source.views_for(("a",)).special_aware
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "model_max_length": 4096}
    if chat_template is not None:
        special["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    generator = np.random.default_rng(5)

    def matrix(rows: int, columns: int) -> np.ndarray:
        scaled = generator.standard_normal((rows, columns), dtype=np.float32) * columns**-0.5
        return (1.5 * scaled).astype(np.float16)

    key_width = WIDTH // 2
    weights = {
        "model.embed_tokens.weight": matrix(VOCAB_SIZE, WIDTH),
        "model.norm.weight": np.ones(WIDTH, dtype=np.float16),
        "lm_head.weight": matrix(VOCAB_SIZE, WIDTH),
    }
    for layer in range(num_layers):
        name = f"model.layers.{layer}"
        weights |= {
            f"{name}.self_attn.q_proj.weight": matrix(WIDTH, WIDTH),
            f"{name}.self_attn.k_proj.weight": matrix(key_width, WIDTH),
            f"{name}.self_attn.v_proj.weight": matrix(key_width, WIDTH),
            f"{name}.self_attn.o_proj.weight": matrix(WIDTH, WIDTH),
            f"{name}.mlp.gate_proj.weight": matrix(inner, WIDTH),
            f"{name}.mlp.up_proj.weight": matrix(inner, WIDTH),
            f"{name}.mlp.down_proj.weight": matrix(WIDTH, inner),
            f"{name}.input_layernorm.weight": np.ones(WIDTH, dtype=np.float16),
            f"{name}.post_attention_layernorm.weight": np.ones(WIDTH, dtype=np.float16),
        }
    save_file(weights, folder / "model.safetensors")
    return folder
