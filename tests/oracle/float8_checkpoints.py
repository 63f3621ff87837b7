"""Matrices in floats of 8 bits as checkpoints hold them, rounded by torch.

In: a float matrix [out, in]. Out: the tensors of its module, and the floats they stand for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from oracle.packed_checkpoints import Packed


@dataclass(frozen=True)
class Float8Kind:
    """A variant and the `quantization_config` that announces it. `block` 0: one scale for all."""

    name: str
    config: dict[str, Any]
    block: tuple[int, int] | None = None
    scale_name: str = ".weight_scale"
    scale_dtype: torch.dtype = torch.float32
    is_static: bool = False
    is_per_row: bool = False


def _compressed(strategy: str, is_dynamic: bool) -> dict[str, Any]:
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy}
    activations = {"num_bits": 8, "type": "float", "dynamic": is_dynamic, "strategy": "token"}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


_FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
FLOAT8_KINDS = (
    Float8Kind("ct", _compressed("channel", True), scale_dtype=torch.bfloat16, is_per_row=True),
    Float8Kind("ct-static", _compressed("tensor", False), is_static=True),
    Float8Kind("fp8", _FP8 | {"activation_scheme": "static"}, is_static=True),
    Float8Kind("fp8-rows", _FP8, is_per_row=True),
    Float8Kind("fp8-blocks", _FP8 | {"weight_block_size": [16, 32]}, (16, 32), ".weight_scale_inv"),
)


def pack_float8(kind: Float8Kind, weight: torch.Tensor) -> Packed:
    """Round a matrix. Shapes: weight [out, in]."""
    rows, columns = weight.shape
    height, width = kind.block or ((1, columns) if kind.is_per_row else (rows, columns))
    codes = torch.empty_like(weight).to(torch.float8_e4m3fn)
    floats = torch.empty_like(weight)
    scales = torch.empty((-(-rows // height), -(-columns // width)), dtype=kind.scale_dtype)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            place = slice(i * height, (i + 1) * height), slice(j * width, (j + 1) * width)
            scales[i, j] = weight[place].abs().max() / 448
            scale = scales[i, j].float()
            codes[place] = (weight[place] / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
            floats[place] = codes[place].float() * scale
    stored = scales.reshape(()) if kind.name == "fp8" else scales
    tensors = {".weight": codes, kind.scale_name: stored}
    if kind.is_static:
        tensors[".input_scale"] = torch.tensor([0.5])
    return Packed(tensors, floats.numpy())
