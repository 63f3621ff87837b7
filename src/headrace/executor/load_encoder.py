"""Weights of an encoder: from the tensors of a folder to packed matrices.

In: a WeightReader, an EncoderConfig, the device's ops. Out: EncoderWeights. Matrices are rounded to
what the caller wants them to be multiplied in; those of a head stay in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headrace.core.engine_config import EncoderDtype
from headrace.core.errors import ModelFileError
from headrace.core.frozen import frozen
from headrace.executor.load import check_shape
from headrace.models.bert import EncoderLayer, EncoderWeights, LayerNorm
from headrace.models.encoder_config import EncoderConfig
from headrace.ops.protocol import Ops, PackedLinear
from headrace.quant.format import FORMATS
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.quantize import quantize
from headrace.weights.encoder_names import encoder_names
from headrace.weights.weight_reader import WeightReader


def load_encoder(
    config: EncoderConfig, reader: WeightReader, ops: Ops, dtype: EncoderDtype
) -> EncoderWeights:
    """Fuse every tensor and have it packed.

    Raises: MissingTensor, UnsupportedFormat, ModelFileError.
    """
    names = encoder_names(reader, config.num_layers, bool(config.labels))
    load = _Loader(config, reader, ops, matrix_dtype(ops, dtype), names)
    width, inner = config.hidden_size, config.intermediate_size
    layers = []
    for index in range(config.num_layers):
        at = f"layers.{index}."
        layers.append(
            EncoderLayer(
                qkv=load.linear([at + name for name in "qkv"], (width, width)),
                o=load.linear([f"{at}o"], (width, width)),
                attn_norm=load.norm(f"{at}attn_norm"),
                up=load.linear([f"{at}up"], (inner, width)),
                down=load.linear([f"{at}down"], (width, inner)),
                mlp_norm=load.norm(f"{at}mlp_norm"),
            )
        )
    head = _Loader(config, reader, ops, "f32", names)
    num_labels = len(config.labels)
    weights = EncoderWeights(
        embed=ops.pack_table(load.tensor("embed", (config.vocab_size, width))),
        positions=ops.pack_table(load.position_rows()),
        norm=load.norm("norm"),
        layers=tuple(layers),
        pooler=head.linear(["pooler"], (width, width)) if num_labels else None,
        classifier=head.linear(["classifier"], (num_labels, width)) if num_labels else None,
    )
    ops.finish_packing()
    return weights


def matrix_dtype(ops: Ops, dtype: EncoderDtype) -> EncoderDtype:
    """What `auto` means on a device."""
    if dtype == "auto":
        return "bf16" if ops.has_bf16_products else "f32"
    return dtype


def encoder_bytes(config: EncoderConfig, ops: Ops, dtype: EncoderDtype) -> int:
    """What the weights take in memory."""
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_layers
    rows = config.vocab_size + config.num_positions * max(config.num_token_types, 1)
    block = FORMATS[matrix_dtype(ops, dtype)]
    matrices = layers * (4 * width + 2 * inner) * width
    return rows * width * 4 + matrices * block.block_bytes // block.block_size


@frozen
class _Loader:
    config: EncoderConfig
    reader: WeightReader
    ops: Ops
    dtype: EncoderDtype
    names: dict[str, str]

    def tensor(self, name: str, shape: tuple[int, ...]) -> QuantTensor:
        """One of our tensors, as stored. Raises: MissingTensor, ModelFileError."""
        tensor = self.reader.tensor(self.names[name])
        check_shape(name, tensor, shape)
        return tensor

    def linear(self, names: Sequence[str], shape: tuple[int, int]) -> PackedLinear:
        """Matrices of one shape fused along `out`, with their biases."""
        parts = [self._matrix(f"{name}.weight", shape) for name in names]
        biases = [self.tensor(f"{name}.bias", shape[:1]) for name in names]
        return self.ops.pack_linear(parts, biases)

    def norm(self, name: str) -> LayerNorm:
        """Weights of a layer norm."""
        shape = (self.config.hidden_size,)
        parts = (self.tensor(f"{name}.{part}", shape) for part in ("weight", "bias"))
        return LayerNorm(*(self.ops.pack_vector(part) for part in parts))

    def position_rows(self) -> QuantTensor:
        """Row `type * num_positions + position` is the sum of both embeddings."""
        config, width = self.config, self.config.hidden_size
        positions = self.tensor("positions", (config.num_positions, width)).dequantize()
        if not config.num_token_types:
            return QuantTensor.from_array(positions)
        types = self.tensor("token_types", (config.num_token_types, width)).dequantize()
        rows = types[:, None] + positions  # [types, positions, C]
        return QuantTensor.from_array(np.ascontiguousarray(rows.reshape(-1, width)))

    def _matrix(self, name: str, shape: tuple[int, int]) -> QuantTensor:
        tensor = self.tensor(name, shape)
        if tensor.format.name == self.dtype:
            return tensor
        try:
            return quantize(tensor.dequantize(), self.dtype)
        except ValueError as error:
            raise ModelFileError(
                f"{self.reader.path}: {self.names[name]!r} cannot be kept in {self.dtype}: "
                f"{error}. encoder_dtype = f32 keeps what there is."
            ) from error
