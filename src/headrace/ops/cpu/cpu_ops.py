"""CpuOps: the Ops protocol over the C++ kernels, one instruction set and one thread pool each.

Two of them with different instruction sets may live in one process. Arrays are numpy float32; an
Act is a float array, quantized by the linear that reads it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headrace import _cpu
from headrace.ops.cpu import matmul
from headrace.ops.cpu.isa import choose_isa
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.ops.step_inputs import Float32
from headrace.quant.quant_tensor import QuantTensor


class CpuOps(ReferenceOps):
    """Ops in C++. `isa` None is the highest of this machine.

    Raises: ConfigError for an instruction set that cannot run here.
    """

    def __init__(self, isa: str | None = None, num_threads: int = 1) -> None:
        super().__init__(np.float32)
        self._kernels = _cpu.CpuOps(choose_isa(isa), num_threads)
        self.name = f"cpu-{self._kernels.isa}"

    def pack_linear(  # type: ignore[override]
        self,
        parts: Sequence[QuantTensor],
        biases: Sequence[QuantTensor | None] | None = None,
        interleave: bool = False,
    ) -> _cpu.PackedLinear:
        return matmul.pack_linear(self._kernels, parts, biases, interleave)

    def linear(self, x: Float32, weight: _cpu.PackedLinear) -> Float32:  # type: ignore[override]
        return matmul.linear(self._kernels, x, weight)


def make_ops(isa: str | None, num_threads: int) -> CpuOps:
    """The entry in ops/table.py."""
    return CpuOps(isa, num_threads)
