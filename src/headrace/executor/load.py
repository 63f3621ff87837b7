"""Weights of a model: from the tensors of a file to packed matrices.

In: a WeightReader, the model class, its config, the device's ops. Out: DecoderWeights.
Knows nothing of memory limits; `memory.py` has planned before this runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import MissingTensor, ModelFileError, UnsupportedFormat
from headrace.core.frozen import frozen
from headrace.executor.key_shift import key_shift
from headrace.executor.shard import WHOLE, RowFormat, Shard
from headrace.models.llama import Llama
from headrace.models.model_config import ModelConfig
from headrace.models.weight_spec import (
    DOWN,
    GATE_UP,
    SHARED_DOWN,
    SHARED_GATE_UP,
    DecoderLayer,
    DecoderWeights,
    LayerSpec,
    LinearSpec,
)
from headrace.ops.protocol import Experts, Ops, PackedLinear, RopeParams, RopeTable
from headrace.quant.quant_tensor import QuantTensor
from headrace.weights.names import load_tensor, sources, unread_names
from headrace.weights.tensor_source import TensorSource
from headrace.weights.weight_reader import WeightReader

Progress = Callable[[int, int], None]
"""Called with layers done and layers in all."""


@frozen
class ModelTensors:
    """A file's tensors under our names, transformed where the file's convention differs.

    `config` has the whole model's numbers; `shard` says which part of it is packed.
    """

    reader: WeightReader
    config: ModelConfig
    table: Mapping[str, TensorSource]
    present: frozenset[str]
    shard: Shard = WHOLE

    @classmethod
    def open(cls, reader: WeightReader, config: ModelConfig, shard: Shard = WHOLE) -> ModelTensors:
        table = sources(reader.architecture, reader.kind, config.num_layers, reader.metadata)
        return cls(reader, config, table, frozenset(reader.names()), shard)

    def has(self, name: str) -> bool:
        return name in self.table and self.table[name].name in self.present

    def get(self, name: str) -> QuantTensor:
        """Raises: MissingTensor."""
        if name not in self.table:
            raise MissingTensor(name, str(self.reader.path))
        return load_tensor(self.reader, self.table[name])

    def refuse_unread(self) -> None:
        """A tensor that nobody reads means another model. Raises: UnsupportedFormat."""
        unread = unread_names(self.reader, self.table)
        if unread:
            raise UnsupportedFormat(
                f"{self.reader.path} has {len(unread)} tensors that the architecture "
                f"{self.reader.architecture!r} does not use here, for example {unread[0]!r}; "
                "running without them would give wrong answers."
            )


def load_weights(
    model: type[Llama],
    config: ModelConfig,
    reader: WeightReader,
    ops: Ops,
    max_positions: int,
    progress: Progress | None = None,
    head_rows: int | None = None,
    shard: Shard = WHOLE,
) -> DecoderWeights:
    """Fuse every tensor the model names and have it packed. `max_positions` bounds rope tables.

    The file is read until `ops.finish_packing`. `head_rows`: tokens that may be chosen, the first
    so many; None is all. `config` is the whole model's, of which the `shard` is packed.

    Raises: MissingTensor, UnsupportedFormat, ModelFileError.
    """
    refuse_mixture(config, ops)
    tensors = ModelTensors.open(reader, config, shard)
    tensors.refuse_unread()
    spec = model.layer_spec(config)
    embed = tensors.get("embed")
    check_shape("embed", embed, (config.vocab_size, config.hidden_size))
    layers = []
    for layer in range(config.num_layers):
        layers.append(load_layer(ops, tensors, spec, layer))
        reader.release()
        if progress is not None:
            progress(layer + 1, config.num_layers)
    is_tied = not tensors.has("head") and config.is_head_tied is not False
    head = embed if is_tied else tensors.get("head")
    check_shape("head", head, (config.vocab_size, config.hidden_size))
    head = shard.vocabulary(head if head_rows is None else head.rows(0, head_rows))
    norm = tensors.get("norm")
    check_shape("norm", norm, (config.hidden_size,))
    return DecoderWeights(
        embed=ops.pack_table(embed),
        layers=tuple(layers),
        ropes=rope_tables(ops, config, tensors, max_positions),
        norm=ops.pack_vector(norm),
        head=ops.pack_linear([head]),
    )


def read_config(model: type[Llama], reader: WeightReader) -> ModelConfig:
    """The architecture's numbers, from whichever kind of file. Raises: ModelFileError."""
    metadata: Mapping[str, Any] = reader.metadata
    if reader.kind == "gguf":
        return model.config_from_gguf(metadata)
    return model.config_from_huggingface(metadata)


def refuse_mixture(config: ModelConfig, ops: Ops) -> None:
    """Raises: UnsupportedFormat for a mixture of experts on a device that runs none."""
    if config.mixture is not None and not ops.has_mixtures:
        raise UnsupportedFormat(
            f"{config.model_type} is a mixture of experts, which headrace does not run on "
            f"{ops.name}. Give engine.device = cpu, or take a model that is none."
        )


def row_formats(tensors: ModelTensors) -> list[RowFormat]:
    """Matrices that ranks divide along `in`, and how the file stores them."""
    found = []
    for layer in range(tensors.config.num_layers):
        for name in ("o", "down", "experts.0.down", "shared_down"):
            place = f"layers.{layer}.{name}"
            if tensors.has(place):
                outline = tensors.reader.outline(tensors.table[place].name)
                found.append(RowFormat(place, outline.shape[-1], outline.format, name != "o"))
    return found


def load_layer(ops: Ops, tensors: ModelTensors, spec: LayerSpec, layer: int) -> DecoderLayer:
    """One layer's matrices and vectors, packed."""
    values: dict[str, Any] = {}
    for linear in spec.linears:
        values[linear.field] = pack(ops, tensors, linear, f"layers.{layer}.")
    if tensors.config.mixture is not None:
        values["experts"] = load_experts(ops, tensors, f"layers.{layer}.")
    for name in spec.vectors:
        vector = tensors.get(f"layers.{layer}.{name}")
        check_shape(f"layers.{layer}.{name}", vector, (vector_size(tensors.config, name),))
        values[name] = ops.pack_vector(vector)
    bias = key_bias(tensors, layer)
    shift = (
        key_shift(tensors.config, layer, bias, key_factors(tensors)) if bias is not None else None
    )
    if shift is not None:
        own = tensors.shard.part(QuantTensor.from_array(shift), "out")
        values["key_shift"] = ops.pack_vector(own)
    return DecoderLayer(**values)


def load_experts(ops: Ops, tensors: ModelTensors, prefix: str) -> Experts:
    """Every expert of a layer, packed apart, so that a step reads those that it uses."""
    places = [f"{prefix}experts.{expert}." for expert in range(num_experts(tensors.config))]
    has_shared = tensors.has(prefix + "shared_down")
    return Experts(
        router=pack_router(ops, tensors, prefix + "router"),
        gate_up=tuple(pack(ops, tensors, GATE_UP, place) for place in places),
        down=tuple(pack(ops, tensors, DOWN, place) for place in places),
        shared_gate_up=pack(ops, tensors, SHARED_GATE_UP, prefix) if has_shared else None,
        shared_down=pack(ops, tensors, SHARED_DOWN, prefix) if has_shared else None,
        shared_router=pack_router(ops, tensors, prefix + "shared_router") if has_shared else None,
    )


def num_experts(config: ModelConfig) -> int:
    return config.mixture.routing.num_experts if config.mixture is not None else 0


def pack_router(ops: Ops, tensors: ModelTensors, name: str) -> PackedLinear:
    """A router in float32, whatever the file has: a rounding may choose another expert."""
    router = tensors.get(name)
    check_shape(name, router, linear_shape(tensors.config, name.rpartition(".")[2]))
    return ops.pack_linear([QuantTensor.from_array(router.dequantize())])


def key_bias(tensors: ModelTensors, layer: int) -> NDArray[np.float64] | None:
    """A layer's key bias, None without one. Shapes: -> [K*D]. Raises: ModelFileError."""
    name = f"layers.{layer}.k_bias"
    if not tensors.has(name):
        return None
    bias = tensors.get(name)
    check_shape(name, bias, linear_shape(tensors.config, "k")[:1])
    return bias.dequantize().reshape(-1).astype(np.float64)


def key_factors(tensors: ModelTensors) -> tuple[float, ...] | None:
    """Rope factors of the model's whole length, so that keys do not depend on settings."""
    return rope_factors(tensors.config, tensors, tensors.config.max_model_len)


def pack(ops: Ops, tensors: ModelTensors, linear: LinearSpec, prefix: str) -> Any:
    """Read a fused matrix's parts, check their shapes against the config, and pack them."""
    parts = []
    for name in linear.parts:
        part = tensors.get(prefix + name)
        check_shape(prefix + name, part, linear_shape(tensors.config, name))
        parts.append(tensors.shard.part(part, linear.split, linear.is_inner))
    return ops.pack_linear(parts, biases(tensors, linear, prefix), linear.interleave)


def biases(
    tensors: ModelTensors, linear: LinearSpec, prefix: str
) -> list[QuantTensor | None] | None:
    """A bias per part, None where the file has none and the architecture lets it."""
    if not any(tensors.has(prefix + name) for name in linear.biases) and not linear.needs_biases:
        return None
    found: list[QuantTensor | None] = []
    for part, name in zip(linear.parts, linear.biases, strict=True):
        if not linear.needs_biases and not tensors.has(prefix + name):
            found.append(None)
            continue
        bias = tensors.get(prefix + name)
        check_shape(prefix + name, bias, linear_shape(tensors.config, part)[:1])
        found.append(tensors.shard.part(bias, linear.split, linear.is_inner))
    return found


def vector_size(config: ModelConfig, name: str) -> int:
    """Weights of a norm: per head for q and k, per model width otherwise."""
    is_head = name in ("q_norm", "k_norm")
    return config.attention[0].head_size if is_head else config.hidden_size


def linear_shape(config: ModelConfig, name: str) -> tuple[int, int]:
    """[out, in] of a projection."""
    spec = config.attention[0]
    width, heads = config.hidden_size, spec.num_heads * spec.head_size
    kv_heads = spec.num_kv_heads * spec.head_size
    mixture = config.mixture
    inner = config.intermediate_size if mixture is None else mixture.intermediate_size
    shared = 0 if mixture is None else mixture.shared_intermediate_size
    shapes = {
        "q": (heads, width),
        "k": (kv_heads, width),
        "v": (kv_heads, width),
        "o": (width, heads),
        "gate": (inner, width),
        "up": (inner, width),
        "down": (width, inner),
        "router": (num_experts(config), width),
        "shared_gate": (shared, width),
        "shared_up": (shared, width),
        "shared_down": (width, shared),
        "shared_router": (1, width),
    }
    return shapes[name]


def check_shape(name: str, tensor: QuantTensor, expected: tuple[int, ...]) -> None:
    """Raises: ModelFileError when the file disagrees with its own numbers."""
    if tuple(tensor.shape) != expected:
        raise ModelFileError(
            f"The tensor {name} has shape {list(tensor.shape)}; "
            f"the model's config says {list(expected)}."
        )


def rope_tables(
    ops: Ops, config: ModelConfig, tensors: ModelTensors, max_positions: int
) -> tuple[RopeTable, ...]:
    """A table per layer; layers with equal parameters share one."""
    factors = rope_factors(config, tensors, max_positions)
    tables: dict[RopeParams, RopeTable] = {}
    result = []
    for layer_params in config.ropes:
        params = replace(layer_params, max_positions=max_positions)
        if factors is not None:
            params = replace(params, factors=factors)
        if params not in tables:
            tables[params] = ops.rope_table(params)
        result.append(tables[params])
    return tuple(result)


def rope_factors(
    config: ModelConfig, tensors: ModelTensors, max_positions: int
) -> tuple[float, ...] | None:
    """Frequency divisors that GGUF files keep as tensors, or that depend on the context's length.

    Llama 3 has one list; LongRoPE has a long one for contexts beyond the original length, used for
    every position, so that an answer does not depend on its own length.
    """
    half = config.ropes[0].rotary_size // 2
    if tensors.has("rope_freqs"):
        factors = factor_list(tensors, "rope_freqs")
    elif config.long_rope is not None:
        factors = config.long_rope.factors(max_positions)
    elif tensors.has("rope_factors_long"):
        original = config.original_max_model_len or config.max_model_len
        name = "rope_factors_long" if max_positions > original else "rope_factors_short"
        factors = factor_list(tensors, name)
    else:
        return None
    if len(factors) != half:
        raise ModelFileError(
            f"{tensors.reader.path} has {len(factors)} rope factors; its rotary size needs {half}."
        )
    return factors


def factor_list(tensors: ModelTensors, name: str) -> tuple[float, ...]:
    values = np.asarray(tensors.get(name).dequantize(), dtype=np.float64)
    return tuple(float(value) for value in values.reshape(-1))
