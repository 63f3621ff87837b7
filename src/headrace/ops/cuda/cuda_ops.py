"""CudaOps: the Ops protocol over torch tensors and Triton kernels, on one device.

Steps come as StepInputs in host memory, which are checked and sent, or as a DeviceStep, which the
replay has sent already. Results stay on the device; chosen tokens and log-probabilities come back.
With device `cpu` the kernels run in Triton's interpreter; with `meta` nothing runs, for compiling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headrace.core.errors import InvalidLogits, UnsupportedFormat
from headrace.ops.cuda import (
    attention,
    embed,
    float8,
    matmul,
    norm,
    packed_matmul,
    packing,
    rope,
    sampling,
    store_kv,
)
from headrace.ops.cuda.device import open_device
from headrace.ops.cuda.device_step import DeviceStep, to_device, upload
from headrace.ops.cuda.float8 import Float8Rows, RoundedAct
from headrace.ops.cuda.gemv import MAX_ROWS
from headrace.ops.cuda.interpreted import prepare_interpreter
from headrace.ops.cuda.rope import RopeTable
from headrace.ops.cuda.step_choice import StepChoice
from headrace.ops.cuda.step_replay import (
    BUCKETS,
    WORKSPACE_BYTES,
    MakeGraph,
    StepReplay,
    bucket_size,
    cuda_graphs,
)
from headrace.ops.cuda.store_kv import KVLayer
from headrace.ops.protocol import (
    Activation,
    AdaptedLinear,
    AttentionSpec,
    ChoosingStep,
    Experts,
    Forward,
    ForwardLogits,
    KVCache,
    KVCacheDtype,
    Logprobs,
    Ops,
    PackedAdapter,
    RopeParams,
    Routing,
)
from headrace.ops.rank_group import RankGroup
from headrace.ops.reference.rope import rope_table
from headrace.ops.reference.sampling import check_token_ids
from headrace.ops.step_inputs import Float32, Int32, SampleInputs, StepInputs
from headrace.quant.format import F8_E4M3
from headrace.quant.quant_tensor import QuantTensor

INTERPRETED_SMS = 4
"""What the interpreter counts as multiprocessors, so that splits are tested."""


class CudaOps:
    """Ops on a GPU. `dtype` is that of activations, float weights and the `bf16` KV cache."""

    has_mixtures = False
    has_adapters = False

    def __init__(
        self,
        device: str = "cuda",
        dtype: torch.dtype = torch.bfloat16,
        make_graph: MakeGraph | None = None,
        group: RankGroup | None = None,
        has_float8: bool = False,
    ) -> None:
        """`make_graph` captures decode steps; None is CUDA graphs on a GPU, none elsewhere.

        With a `group` these are the ops of one rank, on a device of its own. `has_float8`: floats
        of 8 bits are multiplied as such, for devices that are no GPU.
        Raises: ConfigError without a usable GPU.
        """
        self.device = torch.device(device)
        self.dtype = dtype
        self._make_graph = make_graph
        self._num_sms = INTERPRETED_SMS
        self.has_float8_products = has_float8
        self._has_float8_weights = False
        # Packed last, in case the head comes next and is the same.
        self._table: tuple[QuantTensor, packing.Matrix] | None = None
        self.name = f"cuda-interpreted-{str(dtype).removeprefix('torch.')}"
        if self.device.type == "cpu":
            prepare_interpreter()
        elif self.device.type == "cuda":
            found = open_device(self.device)
            self._num_sms, self.name = found.num_sms, f"cuda-sm{found.architecture}"
            self._make_graph = make_graph or cuda_graphs()
            is_new = found.architecture >= float8.FIRST_ARCHITECTURE
            self.has_float8_products = is_new and float8.has_products(self.device)
        self._group = group
        if group is not None:
            self.name += f"-tp{group.num_ranks}"

    @property
    def has_bf16_products(self) -> bool:
        return self.dtype == torch.bfloat16

    # -- at load -------------------------------------------------------------------------------

    def pack_linear(
        self,
        parts: Sequence[QuantTensor],
        biases: Sequence[QuantTensor | None] | None = None,
        interleave: bool = False,
    ) -> packing.Linear:
        table, self._table = self._table, None
        if table is not None and biases is None and [*parts] == [table[0]]:
            return packing.Linear((table[1],), None)  # a tied head: the memory plan has one
        settings = self.dtype, self.device, self.has_float8_products
        packed = packing.pack_linear(parts, biases, interleave, *settings)
        self._has_float8_weights |= any(matmul.takes_rounded(each) for each in packed.matrices)
        return packed

    def finish_packing(self) -> None:
        """Nothing is packed beside the caller."""

    def pack_table(self, table: QuantTensor) -> packing.Matrix:
        if table.format is F8_E4M3:  # tables are read by rows, in floats
            table = QuantTensor.from_array(table.dequantize())
        self._table = table, packing.pack_matrix(table, self.dtype, self.device)
        return self._table[1]

    def packed_bytes(self, tensor: QuantTensor) -> int:
        return packing.packed_bytes(tensor, self.dtype)

    def extra_scratch_bytes(
        self,
        matrices: Sequence[QuantTensor],
        replayed_rows: int,
        row_bytes: int,
        logits_bytes: int,
    ) -> int:
        """A matrix as floats, twice as large where two are fused; graphs have a pool of their own,
        for all of it, and the library a workspace for each of the two streams.
        """
        packed = [math.prod(each.shape) for each in matrices if self._is_widened(each)]
        widened = 2 * self.dtype.itemsize * max(packed, default=0)
        rows = bucket_size(min(replayed_rows, BUCKETS[-1])) if replayed_rows else 0
        graphs = rows * row_bytes + (logits_bytes if rows else 0)
        graphs += widened if rows > packed_matmul.MAX_ROWS else 0
        return widened + graphs + 2 * WORKSPACE_BYTES

    def _is_widened(self, tensor: QuantTensor) -> bool:
        """Whether products of many rows read it as floats."""
        is_float8 = tensor.format is F8_E4M3 and not self.has_float8_products
        return is_float8 or tensor.format.is_quantized

    def pack_vector(self, vector: QuantTensor) -> Tensor:
        return torch.from_numpy(vector.dequantize().reshape(-1)).to(self.device)

    def rope_table(self, params: RopeParams) -> RopeTable:
        table = rope_table(params)
        cos, sin = (torch.from_numpy(part).to(self.device) for part in (table.cos, table.sin))
        return RopeTable(cos, sin, table.rotary_size)

    def kv_bytes_per_block(
        self, specs: Sequence[AttentionSpec], block_size: int, dtype: KVCacheDtype = "bf16"
    ) -> int:
        return store_kv.kv_bytes_per_block(specs, block_size, self.dtype, dtype)

    def allocate_kv(
        self,
        specs: Sequence[AttentionSpec],
        num_blocks: int,
        block_size: int,
        dtype: KVCacheDtype = "bf16",
    ) -> KVCache:
        is_known = self.has_float8_products and self.device.type != "cpu"
        where = self.dtype, dtype, self.device, is_known
        return store_kv.allocate_kv(specs, num_blocks, block_size, *where)

    def copy_blocks(self, cache: KVCache, pairs: Sequence[tuple[int, int]]) -> None:
        store_kv.copy_blocks(cache, pairs)

    def pack_adapter(self, linears: Sequence[AdaptedLinear]) -> PackedAdapter:
        """Not written. Raises: UnsupportedFormat."""
        raise UnsupportedFormat(f"adapters do not run on {self.name}.")

    def adapted(self, step: StepInputs) -> Ops:
        """Not written. Raises: UnsupportedFormat."""
        raise UnsupportedFormat(f"adapters do not run on {self.name}.")

    def free_bytes(self) -> int | None:
        """What the device has free, None where its memory is the machine's."""
        if self.device.type != "cuda":
            return None
        return int(torch.cuda.mem_get_info(self.device)[0])

    # -- forward -------------------------------------------------------------------------------

    def embed(self, token_ids: Any, table: packing.Matrix, scale: float = 1.0) -> Tensor:
        ids = self._indices(token_ids, table.shape[0], "token id", "the embedding table")
        return embed.embed(ids, table, scale, self.dtype)

    def rms_norm(
        self, h: Tensor, weight: Tensor, eps: float, add: Tensor | None = None
    ) -> Tensor | RoundedAct:
        if not self._has_float8_weights or h.shape[0] <= MAX_ROWS:
            return norm.rms_norm(h, weight, eps, add)
        rows = Float8Rows.like(h)
        return RoundedAct(norm.rms_norm(h, weight, eps, add, rounded=rows), rows)

    def norm_array(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return norm.rms_norm(x, weight, eps)

    def linear(self, x: Tensor | RoundedAct, weight: packing.Linear) -> Tensor:
        return matmul.linear(x, weight)

    def gated_linear(
        self,
        x: Tensor | RoundedAct,
        weight: packing.Linear,
        activation: Activation,
        reader: packing.Linear | None = None,
    ) -> Tensor:
        return matmul.gated_linear(x, weight, activation)

    def moe(self, x: Tensor, experts: Experts, routing: Routing, activation: Activation) -> Tensor:
        """Not written. Raises: UnsupportedFormat."""
        raise UnsupportedFormat(f"mixtures of experts do not run on {self.name}.")

    def rope(
        self,
        qkv: Tensor,
        positions: Any,
        table: RopeTable,
        spec: AttentionSpec,
        q_norm: Tensor | None = None,
        k_norm: Tensor | None = None,
        eps: float = 0.0,
    ) -> None:
        sent = self._indices(positions, table.cos.shape[0], "position", "the rope table")
        rope.rope(qkv, sent, table, spec, q_norm, k_norm, eps)

    def store_kv(
        self,
        qkv: Tensor,
        layer: KVLayer,
        slot_mapping: Any,
        spec: AttentionSpec,
        key_shift: Tensor | None = None,
    ) -> None:
        slots = self._indices(slot_mapping, layer.num_slots, "slot", "the cache", lowest=-1)
        store_kv.store_kv(qkv, layer, slots, spec, key_shift)

    def attention(
        self,
        qkv: Tensor,
        layer: KVLayer,
        step: StepInputs | DeviceStep,
        spec: AttentionSpec,
    ) -> Tensor:
        if isinstance(step, StepInputs):
            check_blocks(step, layer)
            step = upload(step, self.device)
        return attention.attention(qkv, layer, step, spec, self._num_sms)

    def layer_norm(
        self, h: Tensor, weight: Tensor, bias: Tensor, eps: float, add: Tensor | None = None
    ) -> Tensor:
        x = (h if add is None else h + add).float()
        return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps).to(h.dtype)

    def gelu(self, x: Tensor) -> Tensor:
        return x.copy_(torch.nn.functional.gelu(x))

    def tanh(self, x: Tensor) -> Tensor:
        return x.tanh_()

    def relu(self, x: Tensor) -> Tensor:
        return x.relu_()

    def attention_packed(self, qkv: Tensor, query_start: Int32, spec: AttentionSpec) -> Tensor:
        heads = qkv.view(len(qkv), 3, spec.num_heads, spec.head_size).permute(1, 2, 0, 3)
        out = torch.empty_like(heads[0])  # [H, T, D]
        for begin, end in zip(query_start[:-1].tolist(), query_start[1:].tolist(), strict=True):
            q, k, v = heads[:, :, begin:end]
            out[:, begin:end] = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, scale=spec.scale
            )
        return out.transpose(0, 1).reshape(len(qkv), -1)

    def take_rows(self, x: Tensor, rows: Any) -> Tensor:
        if len(rows) == len(x):
            return x
        return x.index_select(0, self._indices(rows, len(x), "row", "the batch"))

    def logits(
        self,
        h: Tensor,
        norm_weight: Tensor,
        eps: float,
        head: packing.Linear,
        rows: Any,
        add: Tensor | None = None,
        soft_cap: float | None = None,
    ) -> Tensor:
        wanted = self.take_rows(h, rows)
        added = None if add is None else self.take_rows(add, rows)
        x = norm.rms_norm(wanted, norm_weight, eps, added, writes_sum=False)
        result = matmul.linear(x, head, torch.float32)
        return result if soft_cap is None else soft_cap * torch.tanh(result / soft_cap)

    def all_reduce(self, x: Tensor) -> Tensor:
        return x if self._group is None else self._group.all_reduce(x)

    def all_gather(self, x: Tensor, num_columns: int) -> Tensor:
        if self._group is None:
            return x
        parts = self._group.all_gather(x)  # [ranks, S, W]
        return parts.transpose(0, 1).reshape(len(x), -1)[:, :num_columns].contiguous()

    def record(self, forward: Forward) -> Callable[[StepInputs], Sequence[Tensor]] | None:
        return StepReplay(self, forward, self._make_graph)

    def record_choices(self, forward: ForwardLogits) -> ChoosingStep | None:
        return StepChoice(self, forward, self._make_graph)

    def to_host(self, x: Tensor) -> Float32:
        """An Array as numpy. Waits for the device."""
        result: Float32 = x.float().cpu().numpy()
        return result

    # -- choosing ------------------------------------------------------------------------------

    def adjust_logits(self, logits: Tensor, inputs: SampleInputs) -> None:
        for lists in (inputs.bias, inputs.prompt_counts, inputs.output_counts):
            if lists is not None:
                check_token_ids(lists.token_ids, logits.shape[1])
        sampling.adjust_logits(logits, inputs)

    def sample(self, logits: Tensor, inputs: SampleInputs) -> Int32:
        chosen: Int32 = sampling.sample(logits, inputs).cpu().numpy()
        _raise_for_rows(chosen)
        return chosen

    def logprobs(self, logits: Tensor, token_ids: Int32, num_top: int) -> Logprobs:
        check_token_ids(token_ids, logits.shape[1])
        ids = to_device(token_ids, self.device)
        found = sampling.logprobs(logits, ids, min(num_top, logits.shape[1]))
        own, ranks, top_ids, top = (part.cpu().numpy() for part in found)
        _raise_for_rows(ranks)
        return Logprobs(own, ranks, top_ids, top)

    def _indices(self, values: Any, end: int, what: str, where: str, lowest: int = 0) -> Tensor:
        """Indices on the device. Those from the host are checked; sent ones have been.

        Raises: IndexError.
        """
        if isinstance(values, Tensor):
            return values
        bad = values[(values < lowest) | (values >= end)]
        if bad.size:
            raise IndexError(f"{what} {bad[0]} is outside {where} of {end}.")
        return to_device(np.ascontiguousarray(values, np.int32), self.device)


def check_blocks(step: StepInputs, layer: KVLayer) -> None:
    """Raises: IndexError where a block table does not hold its request's tokens."""
    num_blocks, _, block_size, _ = layer.k.data.shape
    needed = -(-step.seq_lens // block_size)
    used = np.arange(step.block_table.shape[1]) < needed[:, None]
    is_block = (step.block_table >= 0) & (step.block_table < num_blocks)
    is_long = needed > step.block_table.shape[1]
    bad = np.flatnonzero(is_long | (used & ~is_block).any(axis=1))
    if bad.size:
        raise IndexError(
            f"the block table does not hold a request's {step.seq_lens[bad[0]]} tokens."
        )


def _raise_for_rows(marked: Int32) -> None:
    if marked.size and marked.min() < 0:
        raise InvalidLogits(np.flatnonzero(marked < 0).tolist())


def make_ops(isa: str | None, num_threads: int) -> CudaOps:
    """The entry in ops/table.py."""
    return CudaOps()
