"""Matrices rounded and packed as AWQ, GPTQ and compressed-tensors checkpoints hold them.

In: a float matrix [out, in]. Out: the tensors of its module, and the floats they stand for. One
integer is put into one word at a time, as the formats are described, without headrace's code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

AWQ_PLACES = [0, 2, 4, 6, 1, 3, 5, 7]
"""AWQ puts column AWQ_PLACES[i] of eight into place i of a word."""


@dataclass(frozen=True)
class Packed:
    """The tensors of a module, by suffix, and what they stand for. Shapes: floats [out, in]."""

    tensors: dict[str, torch.Tensor]
    floats: NDArray[np.float32]


@dataclass(frozen=True)
class Kind:
    """A variant of a method and the `quantization_config` that announces it."""

    name: str
    method: str
    config: dict[str, Any]
    bits: int = 4
    group_size: int = 64
    is_symmetric: bool = False
    is_shuffled: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


def _compressed(layout: str, bits: int, group_size: int, is_symmetric: bool) -> dict[str, Any]:
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": is_symmetric,
        "strategy": "group" if group_size else "channel",
        "group_size": group_size or None,
    }
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}
_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True, "desc_act": False}
KINDS = (
    Kind("awq", "awq", _AWQ),
    Kind("gptq", "gptq", _GPTQ, is_symmetric=True),
    Kind("gptq-zeros", "gptq", _GPTQ | {"sym": False}, group_size=32),
    Kind("gptq-v2", "gptq", _GPTQ | {"sym": False, "checkpoint_format": "gptq_v2"}),
    Kind("gptq-8", "gptq", _GPTQ | {"bits": 8}, bits=8, is_symmetric=True),
    Kind("gptq-shuffled", "gptq", _GPTQ | {"desc_act": True}, is_shuffled=True, is_symmetric=True),
    Kind("ct", "ct", _compressed("pack-quantized", 4, 64, True), is_symmetric=True),
    Kind("ct-zeros", "ct", _compressed("pack-quantized", 4, 64, False)),
    Kind("ct-8", "ct", _compressed("pack-quantized", 8, 0, True), 8, 0, is_symmetric=True),
    Kind("ct-int8", "ct-int8", _compressed("int-quantized", 8, 0, True), 8, 0, is_symmetric=True),
)


def pack_matrix(kind: Kind, weight: NDArray[np.float32], seed: int = 0) -> Packed:
    """Round a matrix by groups of columns and pack it. Shapes: weight [out, in]."""
    rows, width = weight.shape
    size = kind.group_size or width
    group_of = np.arange(width) // size
    if kind.is_shuffled:
        group_of = np.random.default_rng(seed).permutation(group_of)
    top = (1 << kind.bits) - 1
    q = np.zeros((rows, width), np.int64)
    zeros = np.zeros((rows, width // size), np.int64)
    scales = np.zeros((rows, width // size), np.float16)
    for group in range(width // size):
        part = weight[:, group_of == group]
        if kind.is_symmetric:
            scale = np.abs(part).max(1) / (top // 2)
            zero = np.full(rows, (top + 1) // 2)
        else:
            low = np.minimum(part.min(1), 0)
            scale = (np.maximum(part.max(1), 0) - low) / top
            zero = np.clip(np.rint(-low / scale), 1, top).astype(np.int64)
        scales[:, group] = scale.astype(np.float16)
        zeros[:, group] = zero
        rounded = np.rint(part / scales[:, group, None].astype(np.float32)) + zero[:, None]
        q[:, group_of == group] = np.clip(rounded, 0, top)
    floats = (q - zeros[:, group_of]).astype(np.float32) * scales[:, group_of].astype(np.float32)
    pack = {"awq": _awq, "gptq": _gptq, "ct": _ct, "ct-int8": _int8}[kind.method]
    return Packed(pack(kind, q, zeros, scales, group_of), floats)


def _words(values: NDArray[np.int64], bits: int, places: list[int] | None = None) -> torch.Tensor:
    """Integers of a row, 32 / bits to a word. Shapes: [rows, n] -> [rows, n * bits / 32]."""
    per_word = 32 // bits
    places = places or list(range(per_word))
    words = np.zeros((len(values), values.shape[1] // per_word), np.uint32)
    for word in range(words.shape[1]):
        for place, column in enumerate(places):
            value = values[:, word * per_word + column].astype(np.uint32)
            words[:, word] |= value << np.uint32(place * bits)
    return torch.from_numpy(words.view(np.int32))


def _half(scales: NDArray[np.float16]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(scales))


def _awq(kind: Kind, q: Any, zeros: Any, scales: Any, group_of: Any) -> dict[str, torch.Tensor]:
    return {
        ".qweight": _words(q.T, 4, AWQ_PLACES),
        ".qzeros": _words(zeros.T, 4, AWQ_PLACES),
        ".scales": _half(scales.T),
    }


def _gptq(kind: Kind, q: Any, zeros: Any, scales: Any, group_of: Any) -> dict[str, torch.Tensor]:
    less = 0 if kind.config.get("checkpoint_format") == "gptq_v2" else 1
    return {
        ".qweight": _words(q, kind.bits).T.contiguous(),
        ".qzeros": _words(zeros.T - less, kind.bits),
        ".scales": _half(scales.T),
        ".g_idx": torch.from_numpy(group_of.astype(np.int32)),
    }


def _ct(kind: Kind, q: Any, zeros: Any, scales: Any, group_of: Any) -> dict[str, torch.Tensor]:
    tensors = {
        ".weight_packed": _words(q, kind.bits),
        ".weight_scale": _half(scales),
        ".weight_shape": torch.tensor(q.shape),
    }
    if not kind.is_symmetric:
        tensors[".weight_zero_point"] = _words(zeros.T, kind.bits).T.contiguous()
    return tensors


def _int8(kind: Kind, q: Any, zeros: Any, scales: Any, group_of: Any) -> dict[str, torch.Tensor]:
    return {
        ".weight": torch.from_numpy((q - 128).astype(np.int8)),
        ".weight_scale": _half(scales),
    }
