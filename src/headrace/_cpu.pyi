"""CPU kernels in C++ (csrc/cpu). Used by headrace.ops.cpu and nothing else."""

from collections.abc import Sequence
from enum import Enum

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
    @property
    def is_packed(self) -> bool: ...
    def unpack(
        self,
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
        """q [N, K], zero [N], scale [N, K/16], minimum [N, K/32]; quantized formats only."""

    def unpack_floats(self) -> NDArray[np.float32]:
        """Weights [N, K]; float formats only."""

def isas() -> list[tuple[str, bool, str]]:
    """Name, whether it runs here, and why not; lowest first."""

def packable_formats() -> list[str]: ...
def finish_packing(ops: CpuOps) -> None: ...
def pack_linear(
    ops: CpuOps,
    parts: Sequence[tuple[str, NDArray[np.uint8], bool]],
    depth: int,
    bias: NDArray[np.float32] | None = None,
    interleave: bool = False,
) -> PackedLinear:
    """Pack beside the caller; kernels wait. The list of parts is held as long as the weight.

    A part is a format, its rows, and whether they lie in a mapped file that is only read.
    """

class QuantizedActivation:
    """Activations in int8 groups: what a gated linear leaves for the linear after it."""

    @property
    def shape(self) -> tuple[int, int]: ...

def linear(
    ops: CpuOps,
    x: NDArray[np.float32] | QuantizedActivation,
    weight: PackedLinear,
    y: NDArray[np.float32],
) -> None: ...

class Gate(Enum):
    SILU = ...
    GELU_TANH = ...

def gated_linear(
    ops: CpuOps, x: NDArray[np.float32], weight: PackedLinear, gate: Gate, y: NDArray[np.float32]
) -> None: ...
def can_quantize_gated(ops: CpuOps, num_rows: int, weight: PackedLinear) -> bool: ...
def gated_linear_quantized(
    ops: CpuOps, x: NDArray[np.float32], weight: PackedLinear, gate: Gate
) -> QuantizedActivation:
    """Raises: ValueError unless can_quantize_gated."""

def probe_read_bandwidth(ops: CpuOps, num_bytes: int, rounds: int) -> float:
    """Bytes per second that all threads read together, the best of `rounds`."""

def probe_int8_peak(ops: CpuOps, seconds: float, rounds: int) -> float:
    """Int8 operations per second of all threads, the best of `rounds` of `seconds` each."""

def take(ops: CpuOps, num_rows: int, num_columns: int) -> NDArray[np.float32]:
    """An uncleared array, whose memory is taken again when the array dies."""

class KVFormat(Enum):
    BF16 = ...
    INT8 = ...

class KVLayer:
    """The KV cache of one layer. Raises: ValueError for sizes the kernels do not read."""

    def __init__(
        self,
        num_blocks: int,
        num_kv_heads: int,
        block_size: int,
        head_size: int,
        key_format: KVFormat,
        value_format: KVFormat,
    ) -> None: ...
    @property
    def num_bytes(self) -> int: ...

def copy_blocks(ops: CpuOps, layer: KVLayer, pairs: NDArray[np.int32]) -> None:
    """Copy blocks whole, one pair (from, to) after the other. Raises: IndexError."""

def kv_block_bytes(
    num_kv_heads: int,
    block_size: int,
    head_size: int,
    key_format: KVFormat,
    value_format: KVFormat,
) -> int: ...
def gate(ops: CpuOps, x: NDArray[np.float32], gate: Gate, out: NDArray[np.float32]) -> None:
    """f(gate) * up of interleaved columns. Shapes: x [T, 2F], out [T, F]."""

def add_lora(
    ops: CpuOps,
    x: NDArray[np.float32],
    a: PackedLinear,
    b: PackedLinear,
    rows: NDArray[np.int32],
    y: NDArray[np.float32],
) -> None:
    """y[rows] += (x[rows] a^T) b^T. Raises: ValueError, IndexError unless rows ascend."""

class Adapter:
    """Pairs of matrices by the weight whose products they add to; all are kept alive."""

    def __init__(self) -> None: ...
    def add(self, weight: PackedLinear, a: PackedLinear, b: PackedLinear) -> None: ...

class StepPlan:
    """Ops written down once and run by one call. Results of recorded ops are numbers."""

    def __init__(self, ops: CpuOps) -> None: ...
    def embed(self, table: NDArray[np.uint8], ggml_type: int, width: int, scale: float) -> int: ...
    def rms_norm(self, h: int, weight: NDArray[np.float32], eps: float, add: int | None) -> int: ...
    def linear(self, x: int, weight: PackedLinear) -> int: ...
    def gated_linear(
        self, x: int, weight: PackedLinear, gate: Gate, is_read_quantized: bool
    ) -> int: ...
    def rope(
        self,
        qkv: int,
        cosines: NDArray[np.float32],
        sines: NDArray[np.float32],
        num_heads: int,
        num_kv_heads: int,
        head_size: int,
        q_norm: NDArray[np.float32] | None,
        k_norm: NDArray[np.float32] | None,
        eps: float,
    ) -> None: ...
    def store_kv(
        self, qkv: int, layer: KVLayer, num_heads: int, key_shift: NDArray[np.float32] | None
    ) -> None: ...
    def attention(
        self,
        qkv: int,
        layer: KVLayer,
        num_heads: int,
        scale: float,
        window: int,
        soft_cap: float,
    ) -> int: ...
    def take_wanted(self, x: int) -> int:
        """Rows of logit_rows."""

    def finish(self, outputs: Sequence[int]) -> None:
        """End the recording."""

    def run(
        self,
        token_ids: NDArray[np.int32],
        positions: NDArray[np.int32],
        slot_mapping: NDArray[np.int32],
        query_start: NDArray[np.int32],
        seq_lens: NDArray[np.int32],
        block_table: NDArray[np.int32],
        logit_rows: NDArray[np.int32],
    ) -> list[NDArray[np.float32]]:
        """The outputs for a step. Raises: ValueError, IndexError for arrays that do not fit."""

    def run_adapted(
        self,
        token_ids: NDArray[np.int32],
        positions: NDArray[np.int32],
        slot_mapping: NDArray[np.int32],
        query_start: NDArray[np.int32],
        seq_lens: NDArray[np.int32],
        block_table: NDArray[np.int32],
        logit_rows: NDArray[np.int32],
        adapters: Sequence[tuple[Adapter, NDArray[np.int32], NDArray[np.int32]]],
    ) -> list[NDArray[np.float32]]:
        """The same with adapters, each with its rows of the T and of the S, ascending."""

def can_embed(ops: CpuOps, ggml_type: int) -> bool:
    """Whether `embed` reads tables of this GGUF type."""

def embed(
    ops: CpuOps,
    token_ids: NDArray[np.int32],
    table: NDArray[np.uint8],
    ggml_type: int,
    scale: float,
    out: NDArray[np.float32],
) -> None: ...
def rms_norm(
    ops: CpuOps,
    h: NDArray[np.float32],
    weight: NDArray[np.float32],
    eps: float,
    out: NDArray[np.float32],
    add: NDArray[np.float32] | None = None,
) -> None: ...
def layer_norm(
    ops: CpuOps,
    h: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    eps: float,
    out: NDArray[np.float32],
    add: NDArray[np.float32] | None = None,
) -> None: ...
def gelu(ops: CpuOps, x: NDArray[np.float32]) -> None: ...
def attention_packed(
    ops: CpuOps,
    qkv: NDArray[np.float32],
    query_start: NDArray[np.int32],
    num_heads: int,
    scale: float,
    out: NDArray[np.float32],
) -> None: ...
def rope(
    ops: CpuOps,
    qkv: NDArray[np.float32],
    positions: NDArray[np.int32],
    cosines: NDArray[np.float32],
    sines: NDArray[np.float32],
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    q_norm: NDArray[np.float32] | None = None,
    k_norm: NDArray[np.float32] | None = None,
    eps: float = 0.0,
) -> None: ...
def store_kv(
    ops: CpuOps,
    qkv: NDArray[np.float32],
    layer: KVLayer,
    slot_mapping: NDArray[np.int32],
    num_heads: int,
    key_shift: NDArray[np.float32] | None = None,
) -> None: ...
def attention(
    ops: CpuOps,
    qkv: NDArray[np.float32],
    layer: KVLayer,
    positions: NDArray[np.int32],
    query_start: NDArray[np.int32],
    seq_lens: NDArray[np.int32],
    block_table: NDArray[np.int32],
    num_heads: int,
    scale: float,
    window: int,
    soft_cap: float,
    out: NDArray[np.float32],
) -> None:
    """window 0 is all, soft_cap 0 is off."""

def adjust_logits(
    ops: CpuOps,
    logits: NDArray[np.float32],
    token_mask: NDArray[np.uint32] | None,
    bias_start: NDArray[np.int32] | None,
    bias_ids: NDArray[np.int32] | None,
    bias_values: NDArray[np.float32] | None,
    prompt_start: NDArray[np.int32] | None,
    prompt_ids: NDArray[np.int32] | None,
    prompt_values: NDArray[np.float32] | None,
    output_start: NDArray[np.int32] | None,
    output_ids: NDArray[np.int32] | None,
    output_values: NDArray[np.float32] | None,
    repetition: NDArray[np.float32],
    presence: NDArray[np.float32],
    frequency: NDArray[np.float32],
) -> None: ...
def sample(
    ops: CpuOps,
    logits: NDArray[np.float32],
    temperature: NDArray[np.float32],
    top_k: NDArray[np.int32],
    top_p: NDArray[np.float32],
    min_p: NDArray[np.float32],
    typical_p: NDArray[np.float32],
    seeds: NDArray[np.uint64],
    positions: NDArray[np.int64],
    token_ids: NDArray[np.int32],
) -> None:
    """token_ids[s] is -1 where nothing can be chosen."""

def logprobs(
    ops: CpuOps,
    logits: NDArray[np.float32],
    token_ids: NDArray[np.int32],
    out: NDArray[np.float32],
    ranks: NDArray[np.int32],
    top_ids: NDArray[np.int32],
    top_logprobs: NDArray[np.float32],
) -> None:
    """ranks[s] is -1 where nothing can be chosen."""
