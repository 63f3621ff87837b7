"""RoundedReader: a folder of floats whose layers are rounded to float8 as they are read.

In: an open folder. Out: a WeightReader with the same names; matrices of layers have a scale per
row, embeddings, head, norms and biases stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from headrace.core.engine_config import EngineConfig
from headrace.core.errors import ConfigError, ModelFileError
from headrace.quant.format import F8_E4M3
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.quantize import quantize
from headrace.weights.packed_folder import PackedFolder
from headrace.weights.weight_reader import WeightReader

_OF_LAYERS = ".layers."
_FLOATS = ("f32", "f16", "bf16")


def round_layers(reader: WeightReader, engine: EngineConfig) -> RoundedReader:
    """The reader with `engine.quantization` around it.

    Raises: ConfigError where rounding would be none; the reader is closed then.
    """
    problem = ""
    if engine.device == "cpu":
        problem = "device cpu has no kernel for float8; `headrace quantize` makes smaller files."
    elif reader.kind == "gguf":
        problem = "it rounds folders of safetensors with float weights; this is a GGUF file."
    elif isinstance(reader, PackedFolder):
        problem = f"{reader.path} is quantized already, and not in float8."
    if problem:
        reader.close()
        raise ConfigError("engine.quantization", engine.quantization, "none", problem)
    return RoundedReader(reader)


class RoundedReader:
    """A WeightReader around another. Rounding is to the nearest, row by row, when asked for."""

    def __init__(self, reader: WeightReader) -> None:
        self._reader = reader

    @property
    def path(self) -> Path:
        return self._reader.path

    @property
    def kind(self) -> Literal["gguf", "safetensors"]:
        return self._reader.kind

    @property
    def architecture(self) -> str:
        return self._reader.architecture

    @property
    def metadata(self) -> Mapping[str, object]:
        return self._reader.metadata

    def names(self) -> Sequence[str]:
        """Names of the tensors, as the file has them."""
        return self._reader.names()

    def tensor(self, name: str) -> QuantTensor:
        """A tensor, rounded where it is a layer's matrix of floats.

        Raises: MissingTensor, UnsupportedFormat; ModelFileError for one that is not finite.
        """
        tensor = self._reader.tensor(name)
        if not _is_rounded(name, tensor):
            return tensor
        try:
            return quantize(tensor.dequantize(), F8_E4M3.name)
        except ValueError as error:
            raise ModelFileError(f"{self.path}: {name!r} cannot be rounded: {error}.") from error

    def outline(self, name: str) -> QuantTensor:
        """Format and shape of a tensor; nothing is rounded for it. Raises: as `tensor`."""
        outline = self._reader.outline(name)
        if not _is_rounded(name, outline):
            return outline
        rows, columns = outline.shape
        data = np.empty((rows, F8_E4M3.row_bytes(columns)), np.uint8)
        return QuantTensor(F8_E4M3, (rows, columns), data)

    def release(self) -> None:
        """Give mapped pages back to the system; reading a tensor later maps them again."""
        self._reader.release()

    def close(self) -> None:
        """Let go of the file."""
        self._reader.close()


def _is_rounded(name: str, tensor: QuantTensor) -> bool:
    is_matrix = len(tensor.shape) == 2 and _OF_LAYERS in name
    return is_matrix and tensor.format.name in _FLOATS
