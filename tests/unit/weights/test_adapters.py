"""What is refused of adapters, and that the message says what and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.gguf_file import GgufFile, string_value
from fakes.random_adapter import write_adapter
from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.quant.quant_tensor import QuantTensor
from headrace.weights.adapters import AdaptedBase, read_adapter

BASE = AdaptedBase(
    architecture="qwen2",
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_size=16,
    hidden_size=64,
    intermediate_size=96,
    shapes={"q": (64, 64), "k": (32, 64), "v": (32, 64), "o": (64, 64), "up": (96, 64)},
)
UP = "base_model.model.model.layers.1.mlp.up_proj"


def pair(name: str = UP, out: int = 96, width: int = 64, rank: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        f"{name}.lora_A.weight": rng.standard_normal((rank, width), dtype=np.float32),
        f"{name}.lora_B.weight": rng.standard_normal((out, rank), dtype=np.float32),
    }


def test_products_are_scaled_and_named_as_ours(tmp_path: Path) -> None:
    tensors = pair()
    file = read_adapter(write_adapter(tmp_path, tensors, lora_alpha=6), BASE)
    assert list(file.parts) == ["layers.1.up"]
    assert (file.rank, file.base_name) == (4, "random")
    part = file.parts["layers.1.up"]
    assert np.array_equal(part.a, tensors[f"{UP}.lora_A.weight"])
    assert np.array_equal(part.b, tensors[f"{UP}.lora_B.weight"] * np.float32(1.5))


def test_a_pattern_of_ranks_is_what_the_matrices_say(tmp_path: Path) -> None:
    changes = {"r": 8, "rank_pattern": {"up_proj": 4}}
    assert read_adapter(write_adapter(tmp_path, pair(), **changes), BASE).rank == 4


def test_the_digest_is_that_of_weights_and_config(tmp_path: Path) -> None:
    one = read_adapter(write_adapter(tmp_path / "a", pair()), BASE)
    same = read_adapter(write_adapter(tmp_path / "b", pair()), BASE)
    other = read_adapter(write_adapter(tmp_path / "c", pair(), lora_alpha=9), BASE)
    assert one.sha256 == same.sha256 != other.sha256


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft_type": "LOHA"}, "of type 'LOHA'; headrace reads LORA"),
        ({"use_dora": True}, "use_dora = True: DoRA"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"lora_bias": True}, "lora_bias = True"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save = \['lm_head'\]"),
        ({"init_lora_weights": "pissa_niter_4"}, "also changes the base"),
        ({"lora_alpha": None}, "lora_alpha = None; allowed: a number"),
        ({"r": 8}, r"layers\.1\.mlp\.up_proj have rank 4; .* has r = 8 and no rank_pattern"),
        ({"r": 1.5}, r"r = 1\.5; allowed: a whole number"),
        ({"alpha_pattern": {"(a+)+": 3}}, "no regular expressions"),
        ({"trainable_token_indices": [1]}, "changes rows of the embedding"),
    ],
)
def test_what_is_no_plain_lora_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ModelFileError, match=says):
        read_adapter(write_adapter(tmp_path, pair(), **changes), BASE)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (pair("base_model.model.lm_head"), "'base_model.model.lm_head.lora_A.weight' is none"),
        (pair(f"{UP[:-7]}gate"), r"changes layers\.1\.mlp\.gate, .*: mlp\.up_proj, self_attn"),
        (pair(UP.replace("1.", "7.")), r"changes layers\.7\.mlp\.up_proj"),
        (pair(out=95), r"\[95, 64\]; the base has \[96, 64\] there, .* another base"),
        (pair(width=128), r"\[96, 128\]; the base has \[96, 64\]"),
        ({f"{UP}.lora_A.weight": np.ones((4, 64), np.float32)}, "has one matrix of its two"),
        (pair() | {f"{UP}.lora_B.weight": np.ones((96, 5), np.float32)}, r"\[4, 64\] and \[96, 5"),
        (pair() | {f"{UP}.lora_magnitude_vector": np.ones(96, np.float32)}, "none of a plain LoRA"),
        (pair() | {f"{UP}.lora_B.weight": np.full((96, 4), np.nan, np.float32)}, "hold NaN"),
        ({"layers.1." * 50_000: np.ones((4, 64), np.float32)}, "'layers.1.*none of a plain LoRA"),
        ({}, "has no tensors"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, tensors: dict[str, np.ndarray], says: str
) -> None:
    with pytest.raises(ModelFileError, match=says):
        read_adapter(write_adapter(tmp_path, tensors), BASE)


def test_files_that_are_no_adapter_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"does not exist.*adapter_config\.json"):
        read_adapter(tmp_path / "nothing", BASE)
    with pytest.raises(ModelFileError, match=r"has no adapter_config\.json"):
        read_adapter(tmp_path, BASE)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(UnsupportedFormat, match="pickled weights"):
        read_adapter(tmp_path, BASE)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"general.type": "model"}, "general.type 'model'"),
        ({"adapter.type": "control_vector"}, "adapter.type 'control_vector'"),
        ({"general.architecture": "llama"}, "made for the architecture 'llama'; the base is 'qwen"),
    ],
)
def test_other_gguf_files_are_refused(tmp_path: Path, keys: dict[str, str], says: str) -> None:
    plain = {
        "general.architecture": "qwen2",
        "general.type": "adapter",
        "adapter.type": "lora",
    }
    file = GgufFile(keys=[(key, string_value(value)) for key, value in (plain | keys).items()])
    for half, shape in (("a", (4, 64)), ("b", (96, 4))):
        tensor = QuantTensor.from_array(np.ones(shape, np.float32))
        file.add(f"blk.1.ffn_up.weight.lora_{half}", tensor)
    path = tmp_path / "adapter.gguf"
    path.write_bytes(file.to_bytes())
    with pytest.raises(ModelFileError, match=says):
        read_adapter(path, BASE)
