"""Weights of a model: from the tensors of a file to packed matrices.

In: a WeightReader, the model class, its config, the device's ops. Out: DecoderWeights.
Knows nothing of memory limits; `memory.py` has planned before this runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headrace.core.errors import MissingTensor, ModelFileError
from headrace.models.llama import Llama
from headrace.models.model_config import ModelConfig
from headrace.models.weight_spec import DecoderLayer, DecoderWeights, LayerSpec, LinearSpec
from headrace.ops.protocol import Ops, RopeParams, RopeTable
from headrace.quant.quant_tensor import QuantTensor
from headrace.weights.names import TensorSource, load_tensor, sources
from headrace.weights.weight_reader import WeightReader

Progress = Callable[[int, int], None]
"""Called with layers done and layers in all."""

ROPE_FACTOR_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight")


@dataclass(frozen=True, slots=True)
class ModelTensors:
    """A file's tensors under our names, transformed where the file's convention differs."""

    reader: WeightReader
    config: ModelConfig
    table: Mapping[str, TensorSource]

    @classmethod
    def open(cls, reader: WeightReader, config: ModelConfig) -> ModelTensors:
        metadata = reader.metadata.get("text_config", reader.metadata)
        table = sources(reader.architecture, reader.kind, config.num_layers, metadata)
        return cls(reader, config, table)

    def has(self, name: str) -> bool:
        return name in self.table and self.table[name].name in self.reader.names()

    def get(self, name: str) -> QuantTensor:
        """Raises: MissingTensor."""
        if name not in self.table:
            raise MissingTensor(name, str(self.reader.path))
        heads = self.config.attention[0]
        count = heads.num_kv_heads if name.endswith((".k", ".k_bias")) else heads.num_heads
        return load_tensor(self.reader, self.table[name], count)


def load_weights(
    model: type[Llama],
    config: ModelConfig,
    reader: WeightReader,
    ops: Ops,
    max_positions: int,
    progress: Progress | None = None,
) -> DecoderWeights:
    """Fuse and pack every tensor the model names. `max_positions` bounds the rope tables.

    Raises: MissingTensor, UnsupportedFormat, ModelFileError.
    """
    tensors = ModelTensors.open(reader, config)
    spec = model.layer_spec(config)
    embed = tensors.get("embed")
    check_shape("embed", embed, (config.vocab_size, config.hidden_size))
    layers = []
    for layer in range(config.num_layers):
        layers.append(load_layer(ops, tensors, spec, layer))
        reader.release()
        if progress is not None:
            progress(layer + 1, config.num_layers)
    head = tensors.get("head") if tensors.has("head") else embed
    check_shape("head", head, (config.vocab_size, config.hidden_size))
    weights = DecoderWeights(
        embed=ops.pack_table(embed),
        layers=tuple(layers),
        ropes=rope_tables(ops, config, reader, max_positions),
        norm=ops.pack_vector(tensors.get("norm")),
        head=ops.pack_linear([head]),
    )
    reader.release()
    return weights


def load_layer(ops: Ops, tensors: ModelTensors, spec: LayerSpec, layer: int) -> DecoderLayer:
    """One layer's matrices and vectors, packed."""
    values: dict[str, Any] = {}
    for linear in spec.linears:
        values[linear.field] = pack(ops, tensors, linear, f"layers.{layer}.")
    for name in spec.vectors:
        values[name] = ops.pack_vector(tensors.get(f"layers.{layer}.{name}"))
    return DecoderLayer(**values)


def pack(ops: Ops, tensors: ModelTensors, linear: LinearSpec, prefix: str) -> Any:
    """Read a fused matrix's parts, check their shapes against the config, and pack them."""
    parts = [tensors.get(prefix + name) for name in linear.parts]
    for name, part in zip(linear.parts, parts, strict=True):
        check_shape(prefix + name, part, linear_shape(tensors.config, name))
    biases = [tensors.get(prefix + name) for name in linear.biases] or None
    return ops.pack_linear(parts, biases, linear.interleave)


def linear_shape(config: ModelConfig, name: str) -> tuple[int, int]:
    """[out, in] of a projection."""
    spec = config.attention[0]
    width, heads = config.hidden_size, spec.num_heads * spec.head_size
    kv_heads = spec.num_kv_heads * spec.head_size
    shapes = {
        "q": (heads, width),
        "k": (kv_heads, width),
        "v": (kv_heads, width),
        "o": (width, heads),
        "gate": (config.intermediate_size, width),
        "up": (config.intermediate_size, width),
        "down": (width, config.intermediate_size),
    }
    return shapes[name]


def check_shape(name: str, tensor: QuantTensor, expected: tuple[int, ...]) -> None:
    """Raises: ModelFileError when the file disagrees with its own numbers."""
    if tuple(tensor.shape) != expected:
        raise ModelFileError(
            f"The tensor {name} has shape {list(tensor.shape)}; the model's config says {list(expected)}."
        )


def rope_tables(
    ops: Ops, config: ModelConfig, reader: WeightReader, max_positions: int
) -> tuple[RopeTable, ...]:
    """A table per layer; layers with equal parameters share one."""
    factors = rope_factors(reader)
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


def rope_factors(reader: WeightReader) -> tuple[float, ...] | None:
    """Frequency divisors that GGUF files keep as a tensor (Llama 3.x, Phi-3 long context)."""
    names = set(reader.names())
    for name in ROPE_FACTOR_TENSORS:
        if reader.kind == "gguf" and name in names:
            values = np.asarray(reader.tensor(name).dequantize(), dtype=np.float64)
            return tuple(float(value) for value in values.reshape(-1))
    return None

