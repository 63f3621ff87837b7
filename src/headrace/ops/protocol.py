"""Ops: everything a model computes with. One definition, an implementation per device.

Models are written over this protocol and over nothing else; `Array` and `Act` are opaque to them.
An Array is a numpy array on reference and CPU, a tensor in its memory on CUDA; an Act is an
activation in the form its linear reads (float in the reference, int8 groups with scales on CPU),
converted at first use.

Shape letters: R requests, T tokens of the flat batch, S rows whose logits are wanted, C width,
V vocabulary, H query heads, K KV heads, D head size, F feed-forward, N blocks in the KV pool,
B tokens of a block, P blocks in a row of the block table, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol

from headrace.core.frozen import frozen
from headrace.ops.step_inputs import Float32, Int32, SampleInputs, StepInputs
from headrace.quant.quant_tensor import QuantTensor

Array = Any
Act = Any
PackedLinear = Any
PackedTable = Any
RopeTable = Any
PackedAdapter = Any
KVLayer = Any
Activation = Literal["silu", "gelu_tanh"]
KVCacheDtype = Literal["bf16", "int8", "fp8"]

GATE_UP_INTERLEAVE = 16
"""Columns of gate and up alternate in units of 16: [16 gate, 16 up, 16 gate, ...]."""


@frozen
class AttentionSpec:
    """The constants of an attention layer.

    `scale` multiplies q.k. `window`: a token sees itself and the window-1 tokens before it; None is
    all. `soft_cap` c turns scores s into c*tanh(s/c); None is off. `has_uneven_keys`: a few dims of
    the keys are so large that an int8 cache keeps this layer's keys in bf16.
    """

    num_heads: int
    num_kv_heads: int
    head_size: int
    scale: float
    window: int | None = None
    soft_cap: float | None = None
    has_uneven_keys: bool = False

    @property
    def qkv_width(self) -> int:
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_size


@frozen
class RopeParams:
    """Rotary embedding, half-split pairs (i, i + rotary_size/2) within the first rotary_size dims.

    `factors` [rotary_size/2] divide the inverse frequencies (1 = plain; the scaling of Llama 3 and
    LongRoPE comes this way). `attention_factor` multiplies cos and sin.
    """

    theta: float
    rotary_size: int
    max_positions: int
    factors: tuple[float, ...] | None = None
    attention_factor: float = 1.0


@frozen
class Routing:
    """A token's experts: the `num_chosen` most likely of a softmax over all `num_experts`.

    `is_normalized` divides the weights of the chosen by their sum.
    """

    num_experts: int
    num_chosen: int
    is_normalized: bool


@frozen
class Experts:
    """Packed weights of a mixture; gate and up are interleaved, as gated_linear reads them.

    `shared_*` is an expert of every token; `shared_router` [1, C] gives the logit of its weight.
    Shapes: router [E, C]; gate_up, down one per expert.
    """

    router: PackedLinear
    gate_up: tuple[PackedLinear, ...]
    down: tuple[PackedLinear, ...]
    shared_gate_up: PackedLinear | None = None
    shared_down: PackedLinear | None = None
    shared_router: PackedLinear | None = None


@frozen
class AdaptedLinear:
    """What an adapter adds to a packed linear of the base: x w^T + (x a^T) b^T.

    `b_parts` are fused as the parts of `weight` were, all with r columns.
    Shapes: a [r, in]; b_parts [out_i, r].
    """

    weight: PackedLinear
    a: QuantTensor
    b_parts: tuple[QuantTensor, ...]
    interleave: bool = False


@frozen
class KVCache:
    """Keys and values per layer: [N, K, B, D]; the order inside a block is the device's."""

    layers: tuple[KVLayer, ...]
    num_blocks: int
    block_size: int
    num_bytes: int


@frozen
class Logprobs:
    """Log-softmax facts. Shapes: logprobs, ranks [S]; top_ids, top_logprobs [S, k], best first."""

    logprobs: Float32
    ranks: Int32
    top_ids: Int32
    top_logprobs: Float32


class Ops(Protocol):
    """What a device offers. Arrays are float32 unless said; all are C-contiguous."""

    name: str
    has_bf16_products: bool
    """Whether bf16 weights are multiplied as such, several times faster than float32 ones."""
    has_mixtures: bool
    """Whether `moe` is there; a model that needs it is refused at load where it is not."""
    has_adapters: bool
    """Whether steps may have adapters."""

    # -- at load -------------------------------------------------------------------------------

    def pack_linear(
        self,
        parts: Sequence[QuantTensor],
        biases: Sequence[QuantTensor | None] | None = None,
        interleave: bool = False,
    ) -> PackedLinear:
        """Fuse parts [out_i, in] along `out` into one matrix, exact integers kept.

        `interleave` takes two parts of equal size and alternates GATE_UP_INTERLEAVE rows of each.
        A device may pack beside the caller: parts must not change before `finish_packing`.
        Raises: UnsupportedFormat.
        """
        ...

    def finish_packing(self) -> None:
        """Wait until all is packed and let go of the parts. The ops that read them do otherwise."""
        ...

    def pack_table(self, table: QuantTensor) -> PackedTable:
        """Keep an embedding table [V, C] for row reads."""
        ...

    def pack_adapter(self, linears: Sequence[AdaptedLinear]) -> PackedAdapter:
        """An adapter for StepInputs.adapters. Its memory is given back with the last reference.

        Raises: UnsupportedFormat where the device has none.
        """
        ...

    def adapted(self, step: StepInputs) -> Ops:
        """These ops, with linears that add what the step's adapters give to their rows.

        A row's bits do not depend on other rows and their adapters; those of rows without one are
        as ever. For one forward pass over that step, call by call; replays do so by themselves.
        """
        ...

    def packed_bytes(self, tensor: QuantTensor) -> int:
        """About what a matrix takes once packed, for the memory plan."""
        ...

    def extra_scratch_bytes(
        self,
        matrices: Sequence[QuantTensor],
        replayed_rows: int,
        row_bytes: int,
        logits_bytes: int,
    ) -> int:
        """What products and replays take beside a step's activations, for the memory plan.

        `matrices` are outlines of the layers'; replayed steps have `replayed_rows` at the most,
        with activations of `row_bytes` each, and logits of `logits_bytes` at a time.
        """
        ...

    def pack_vector(self, vector: QuantTensor) -> Array:
        """A norm weight or bias as float32."""
        ...

    def rope_table(self, params: RopeParams) -> RopeTable:
        """cos and sin for positions below max_positions, computed in float64, kept as float32.

        The values may come later, as those of `pack_linear`.
        """
        ...

    def kv_bytes_per_block(
        self, specs: Sequence[AttentionSpec], block_size: int, dtype: KVCacheDtype = "bf16"
    ) -> int:
        """Bytes one block takes over all layers."""
        ...

    def allocate_kv(
        self,
        specs: Sequence[AttentionSpec],
        num_blocks: int,
        block_size: int,
        dtype: KVCacheDtype = "bf16",
    ) -> KVCache:
        """Room for num_blocks blocks in each layer.

        int8 keeps integers of -127 .. 127 and a float32 scale per token and KV head; store_kv
        rounds, attention reads the rounded values. fp8 keeps floats of 8 bits (e4m3) and such a
        scale. The reference keeps its own floats for bf16.
        Raises: ConfigError for fp8 where the device has none.
        """
        ...

    def copy_blocks(self, cache: KVCache, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy blocks whole in every layer, (from, to) in order; none reads what another wrote.

        Comes behind the steps that were started before it. Mutates: cache.
        """
        ...

    # -- forward -------------------------------------------------------------------------------

    def embed(self, token_ids: Int32, table: PackedTable, scale: float = 1.0) -> Array:
        """Rows of the table times scale. Shapes: token_ids [T], table [V, C] -> [T, C]."""
        ...

    def rms_norm(self, h: Array, weight: Array, eps: float, add: Array | None = None) -> Act:
        """h += add, where given; then h / sqrt(mean(h^2) + eps) * weight.

        Shapes: h, add [T, C]; weight [C] -> Act [T, C].
        Mutates: h when add is given.
        """
        ...

    def norm_array(self, x: Array, weight: Array, eps: float) -> Array:
        """rms_norm where no linear follows (Gemma's post norms). Shapes: [T, C] -> Array [T, C]."""
        ...

    def layer_norm(
        self, h: Array, weight: Array, bias: Array, eps: float, add: Array | None = None
    ) -> Array:
        """(x - mean) / sqrt(variance + eps) * weight + bias of x = h, or h + add where given.

        Shapes: h, add [T, C]; weight, bias [C] -> [T, C].
        Source: arXiv 1607.06450.
        """
        ...

    def linear(self, x: Act, weight: PackedLinear) -> Array:
        """x @ weight.T + bias. Shapes: Act [T, in], weight [out, in] -> [T, out]."""
        ...

    def gated_linear(
        self,
        x: Act,
        weight: PackedLinear,
        activation: Activation,
        reader: PackedLinear | None = None,
    ) -> Act:
        """activation(gate) * up, of the linear of an interleaved weight.

        With `reader`, the linear that alone reads the result, it may have the form which that one
        computes with; the bits of the reader's result are the same.
        Shapes: Act [T, in], weight [2F, in], F a multiple of GATE_UP_INTERLEAVE -> Act [T, F].
        """
        ...

    def moe(self, x: Act, experts: Experts, routing: Routing, activation: Activation) -> Array:
        """The chosen experts of each row, times their weights, and the shared one times its own.

        A row's experts are added in ascending order and the shared one last, so that its bits do
        not depend on what other rows chose. Equal logits: the lower expert.
        Shapes: Act [T, C] -> [T, C].
        Source: arXiv 2401.04088, section 2.1; the shared expert arXiv 2407.10671, section 2.2.2.
        """
        ...

    def gelu(self, x: Array) -> Array:
        """x * (1 + erf(x / sqrt 2)) / 2. Shapes: [T, F] -> [T, F]. Mutates: x, which it returns.

        Source: arXiv 1606.08415.
        """
        ...

    def tanh(self, x: Array) -> Array:
        """Mutates: x [R, C], which it returns."""
        ...

    def relu(self, x: Array) -> Array:
        """max(x, 0). Mutates: x [R, C], which it returns."""
        ...

    def rope(
        self,
        qkv: Array,
        positions: Int32,
        table: RopeTable,
        spec: AttentionSpec,
        q_norm: Array | None = None,
        k_norm: Array | None = None,
        eps: float = 0.0,
    ) -> None:
        """Rotate q and k of every head, after a per-head rms norm where weights [D] are given.

        Shapes: qkv [T, (H+2K)*D]; positions [T]. Mutates: qkv.
        """
        ...

    def store_kv(
        self,
        qkv: Array,
        layer: KVLayer,
        slot_mapping: Int32,
        spec: AttentionSpec,
        key_shift: Array | None = None,
    ) -> None:
        """Write the step's keys, less key_shift where given, and values into their slots.

        Softmax does not see a shift that all keys share (docs/design/0007).
        Shapes: qkv [T, (H+2K)*D]; slot_mapping [T], -1 skips the row; key_shift [K*D].
        Mutates: layer.
        Source: arXiv 2309.06180, section 4.
        """
        ...

    def attention(self, qkv: Array, layer: KVLayer, step: StepInputs, spec: AttentionSpec) -> Act:
        """Causal attention of the step's queries over their paged keys and values.

        Shapes: qkv [T, (H+2K)*D] -> Act [T, H*D]. Row t of request r, at absolute position p, sees
        cache positions max(0, p - window + 1) .. p.
        """
        ...

    def attention_packed(self, qkv: Array, query_start: Int32, spec: AttentionSpec) -> Act:
        """Attention without a cache: every row of a sequence sees all rows of it.

        As many KV heads as heads; no window, no soft cap.
        Shapes: qkv [T, 3*H*D]; query_start [R+1], from 0 to T -> Act [T, H*D].
        Source: arXiv 1706.03762.
        """
        ...

    def take_rows(self, x: Array, rows: Int32) -> Array:
        """The rows of an Array or Act; itself when rows are all of them. Ascending, each once.

        Shapes: [T, C], rows [S] -> [S, C].
        """
        ...

    def logits(
        self,
        h: Array,
        norm: Array,
        eps: float,
        head: PackedLinear,
        rows: Int32,
        add: Array | None = None,
        soft_cap: float | None = None,
    ) -> Array:
        """Norm and head of the wanted rows only. Shapes: h, add [T, C]; rows [S] -> [S, V]."""
        ...

    def all_reduce(self, x: Array) -> Array:
        """The sum of every rank's x, the same on all; x itself where there is one rank.

        All ranks call it in the same order with equal shapes. Shapes: [T, C] -> [T, C].
        Mutates: x, which it may return.
        """
        ...

    def all_gather(self, x: Array, num_columns: int) -> Array:
        """The columns of all ranks side by side, the first `num_columns` of them; x with one rank.

        Shapes: [S, W] -> [S, num_columns], at most ranks * W.
        """
        ...

    def record(self, forward: Forward) -> Callable[[StepInputs], Sequence[Array]] | None:
        """Write down what `forward` calls, to run it for any step by one call, with equal bits.

        `forward` may not look into the step. None where the device, or an op for these weights,
        has no replay: the caller then goes on call by call.
        """
        ...

    def record_choices(self, forward: ForwardLogits) -> ChoosingStep | None:
        """Steps up to their tokens, which stay on the device for the next one; see ChoosingStep.

        `forward` may not look into the step. None where tokens are chosen beside the host.
        """
        ...

    def free_bytes(self) -> int | None:
        """What the device has free for weights and cache; None where it uses the machine's."""
        ...

    def to_host(self, x: Array) -> Float32:
        """An Array as numpy, for what is computed beside the device. Waits for it."""
        ...

    # -- choosing ------------------------------------------------------------------------------

    def adjust_logits(self, logits: Array, inputs: SampleInputs) -> None:
        """Mask, bias, then repetition, frequency and presence penalties. Mutates: logits [S, V]."""
        ...

    def sample(self, logits: Array, inputs: SampleInputs) -> Int32:
        """Choose a token per row: greedy, or Gumbel-max over what the filters keep.

        Filters in order, after logits/temperature: top_k, top_p, min_p, typical_p; a filter never
        removes the best token. Noise is a counter-based function of (seed, position, token id).
        Ties go to the lowest id. Shapes: [S, V] -> [S].
        """
        ...

    def logprobs(self, logits: Array, token_ids: Int32, num_top: int) -> Logprobs:
        """Log-softmax of the chosen tokens, their ranks, and the num_top best of each row."""
        ...


Forward = Callable[[Ops, StepInputs], Sequence[Array]]
"""A forward pass over given ops: the arrays it ends with."""

ForwardLogits = Callable[[Ops, StepInputs], Iterable[Array]]
"""A forward pass up to the logits of the wanted rows, some rows after the others: [n, V] each."""

PendingTokens = Callable[[], Int32]
"""Waits for a step: the tokens it chose [S], -1 in rows where none can be."""

ChoosingStep = Callable[[StepInputs, Int32, SampleInputs], PendingTokens]
"""Starts a step, and does not wait for it or the ones before.

A token of the step is the one chosen by the row that `sources` names, of the step started before;
where that is -1, the step's own. SampleInputs have neither lists nor masks nor penalties.
Shapes: sources [T].
"""
