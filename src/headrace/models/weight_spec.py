"""What tensors a decoder wants, how they are fused, and the packed weights a forward reads.

The executor fills these records; a model only names them. Optional tensors are None.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from headrace.core.frozen import frozen
from headrace.models.model_config import ModelConfig
from headrace.ops.protocol import Array, Experts, PackedLinear, PackedTable, RopeTable

Split = Literal["out", "in"]
"""Along which dimension ranks divide a matrix [out, in]."""


@frozen
class LinearSpec:
    """A fused matrix: `parts` along `out`, a bias name per part, gate and up interleaved or not.

    Biases that are not needed are read where the file has them. Ranks divide each part along
    `split`: with "out" each computes its own heads or columns, with "in" a part of every sum, which
    the forward pass adds up by `all_reduce`. `is_inner`: what is divided are the columns of a
    feed-forward, which need not come in equal parts.
    """

    field: str
    parts: tuple[str, ...]
    biases: tuple[str, ...] = ()
    needs_biases: bool = False
    interleave: bool = False
    split: Split = "out"
    is_inner: bool = False


GATE_UP = LinearSpec("gate_up", ("gate", "up"), interleave=True, is_inner=True)
DOWN = LinearSpec("down", ("down",), split="in", is_inner=True)
SHARED_GATE_UP = replace(GATE_UP, parts=("shared_gate", "shared_up"))
SHARED_DOWN = replace(DOWN, parts=("shared_down",))


@frozen
class LayerSpec:
    """The fields of DecoderLayer and the tensors, relative to `layers.<i>.`, that fill them."""

    linears: tuple[LinearSpec, ...]
    vectors: tuple[str, ...]


@frozen
class DecoderLayer:
    """Packed weights of one layer. `key_shift` [K*D] is what store_kv takes off its keys.

    A mixture has `experts` in place of `gate_up` and `down`.
    """

    attn_norm: Array
    qkv: PackedLinear
    o: PackedLinear
    mlp_norm: Array
    gate_up: PackedLinear | None = None
    down: PackedLinear | None = None
    experts: Experts | None = None
    q_norm: Array | None = None
    k_norm: Array | None = None
    post_attn_norm: Array | None = None
    post_mlp_norm: Array | None = None
    key_shift: Array | None = None


@frozen
class DecoderWeights:
    """Packed weights of a decoder. `ropes` has one entry per layer; equal tables are shared."""

    embed: PackedTable
    layers: tuple[DecoderLayer, ...]
    ropes: tuple[RopeTable, ...]
    norm: Array
    head: PackedLinear


def decoder_layer_spec(config: ModelConfig, *, has_post_norms: bool = False) -> LayerSpec:
    """The layer every architecture here shares, with its optional parts."""
    biases = ("q_bias", "k_bias", "v_bias")
    vectors = ["attn_norm", "mlp_norm"]
    if config.has_qk_norm:
        vectors += ["q_norm", "k_norm"]
    if has_post_norms:
        vectors += ["post_attn_norm", "post_mlp_norm"]
    linears = [
        LinearSpec("qkv", ("q", "k", "v"), biases, needs_biases=config.has_qkv_bias),
        LinearSpec("o", ("o",), split="in"),
    ]
    if config.mixture is None:
        linears += [GATE_UP, DOWN]
    return LayerSpec(tuple(linears), tuple(vectors))
