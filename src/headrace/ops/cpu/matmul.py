"""Packing weights for the CPU kernels, and the linear layer over them.

In: QuantTensors as the file stores them. Out: `_cpu.PackedLinear`, the exact integers and scales in
panels of 16 columns, or floats where a format has no integer kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from mmap import mmap

import numpy as np
from numpy.typing import NDArray

from headrace import _cpu
from headrace.ops.protocol import GATE_UP_INTERLEAVE, Activation
from headrace.quant.format import F8_E4M3, FORMATS
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.quantize import quantize

Float32 = NDArray[np.float32]
Act = Float32 | _cpu.QuantizedActivation
StoredPart = tuple[str, NDArray[np.uint8], bool]

PACKING_OVERHEAD = 1.03
"""Packed panels against GGUF blocks: scales widened and columns padded (docs/design/0001)."""

_FLOATS = frozenset({"f32", "f16", "bf16"})


def pack_linear(
    ops: _cpu.CpuOps,
    parts: Sequence[QuantTensor],
    biases: Sequence[QuantTensor | None] | None,
    interleave: bool,
) -> tuple[_cpu.PackedLinear, list[StoredPart]]:
    """Fuse parts along `out`; see Ops.pack_linear. Also gives what is read until it is packed.

    Raises: ValueError when parts do not fit together.
    """
    depths = {part.shape[-1] for part in parts}
    if len(depths) != 1:
        raise ValueError(f"fused parts read inputs of different widths: {sorted(depths)}")
    parts = [_as_bf16(part) if part.format is F8_E4M3 else part for part in parts]
    stored = parts if _can_pack(parts, interleave) else [_as_float32(part) for part in parts]
    raw = [_stored_part(part) for part in stored]
    bias = _fused_bias(parts, biases)
    return _cpu.pack_linear(ops, raw, depths.pop(), bias, interleave), raw


def packed_bytes(tensor: QuantTensor) -> int:
    """About what a matrix takes in panels; a format without a kernel becomes float32."""
    if tensor.format is F8_E4M3:
        bf16_bytes = tensor.num_rows * FORMATS["bf16"].row_bytes(tensor.shape[-1])
        return int(bf16_bytes * PACKING_OVERHEAD)
    if tensor.format.name not in _cpu.packable_formats():
        return math.prod(tensor.shape) * 4
    return int(tensor.nbytes * PACKING_OVERHEAD)


def linear(ops: _cpu.CpuOps, x: Act, weight: _cpu.PackedLinear) -> Float32:
    """x @ weight.T + bias. Shapes: [T, in] -> [T, out]."""
    y = _cpu.take(ops, x.shape[0], weight.num_columns)
    _cpu.linear(ops, x, weight, y)
    return y


GATES = {"silu": _cpu.Gate.SILU, "gelu_tanh": _cpu.Gate.GELU_TANH}


def gated_linear(
    ops: _cpu.CpuOps,
    x: Float32,
    weight: _cpu.PackedLinear,
    activation: Activation,
    reader: _cpu.PackedLinear | None = None,
) -> Act:
    """activation(gate) * up of an interleaved weight. Shapes: [T, in] -> [T, out / 2].

    The result stays int8 for a quantized `reader` where the kernels can: its floats would be
    written to memory, read once and rounded to the same integers.
    """
    is_read_quantized = reader is not None and reader.is_quantized
    if is_read_quantized and _cpu.can_quantize_gated(ops, x.shape[0], weight):
        return _cpu.gated_linear_quantized(ops, x, weight, GATES[activation])
    y = _cpu.take(ops, x.shape[0], weight.num_columns // 2)
    _cpu.gated_linear(ops, x, weight, GATES[activation], y)
    return y


def _can_pack(parts: Sequence[QuantTensor], interleave: bool) -> bool:
    """Whether the parts fit one packed matrix as they are.

    A panel has one format, and quantized and float formats have different kernels.
    """
    names = {part.format.name for part in parts}
    if not names <= set(_cpu.packable_formats()):
        return False
    if len(names) == 1:
        return True
    aligned = all(
        part.shape[0] % GATE_UP_INTERLEAVE == 0 for part in parts[: 2 if interleave else -1]
    )
    return aligned and not names & _FLOATS


def _stored_part(part: QuantTensor) -> StoredPart:
    data = np.ascontiguousarray(part.data)
    base: object = data
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return part.format.name, data, isinstance(base, mmap)


def _as_bf16(part: QuantTensor) -> QuantTensor:
    """Floats of 8 bits have no kernel here; the scale times 4 bits is rounded once, by 0.2 %."""
    return quantize(part.dequantize(), "bf16")


def _as_float32(part: QuantTensor) -> QuantTensor:
    return QuantTensor.from_array(part.dequantize())


def _fused_bias(
    parts: Sequence[QuantTensor], biases: Sequence[QuantTensor | None] | None
) -> Float32 | None:
    if biases is None or all(bias is None for bias in biases):
        return None
    return np.concatenate(
        [
            np.zeros(part.shape[0], np.float32) if bias is None else bias.dequantize().reshape(-1)
            for part, bias in zip(parts, biases, strict=True)
        ]
    )
