"""CPU kernels in C++ (csrc/cpu). Used by headrace.ops.cpu and nothing else."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

class CpuOps:
    """Kernels of one instruction set and one thread pool. Raises: ValueError."""

    def __init__(self, isa: str, num_threads: int) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def num_threads(self) -> int: ...

class PackedLinear:
    """A matrix [num_columns, depth] in panels of 16 columns."""

    @property
    def num_columns(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def is_quantized(self) -> bool: ...
    def unpack(
        self,
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
        """q [N, K], zero [N], scale [N, K/16], minimum [N, K/32]; quantized formats only."""

    def unpack_floats(self) -> NDArray[np.float32]:
        """Weights [N, K]; float formats only."""

def isas() -> list[tuple[str, bool, str]]:
    """Name, whether it runs here, and why not; lowest first."""

def packable_formats() -> list[str]: ...
def pack_linear(
    ops: CpuOps,
    parts: Sequence[tuple[str, NDArray[np.uint8]]],
    depth: int,
    bias: NDArray[np.float32] | None = None,
    interleave: bool = False,
) -> PackedLinear: ...
def linear(
    ops: CpuOps, x: NDArray[np.float32], weight: PackedLinear, y: NDArray[np.float32]
) -> None: ...
def probe_read_bandwidth(ops: CpuOps, num_bytes: int, rounds: int) -> float:
    """Bytes per second that all threads read together, the best of `rounds`."""

def probe_int8_peak(ops: CpuOps, seconds: float, rounds: int) -> float:
    """Int8 operations per second of all threads, the best of `rounds` of `seconds` each."""
