"""Float8Folder: a Hugging Face folder whose matrices are floats of 8 bits, as a WeightReader.

In: an open folder with a `quantization_config` of fp8 or of compressed-tensors with floats. Out:
the names that the unquantized model has; each such matrix as stored, with a scale per row, or in
bf16 where blocks of it have scales. Which matrices are is read off their tensors. Scales of
activations and of a KV cache are left out: both are taken from the values themselves.
Source: compressed-tensors, compressors/naive_quantized; AutoFP8, quantize.py; transformers,
integrations/finegrained_fp8.py (`weight_scale_inv` multiplies).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import MissingTensor, ModelFileError, UnsupportedFormat
from headrace.quant import float8
from headrace.quant.format import F8_E4M3, FORMATS, QuantFormat
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.quantize import quantize
from headrace.weights.packings import float8_blocks
from headrace.weights.safetensors import SafetensorsReader

_WEIGHT = ".weight"
_SCALES = (".weight_scale", ".weight_scale_inv")
_ACTIVATION_SCALE = ".input_scale"
_KV_SCALES = (".k_scale", ".v_scale", ".kv_scale")


class Float8Folder:
    """An open folder of float8; a WeightReader."""

    kind: Literal["safetensors"] = "safetensors"

    def __init__(self, reader: SafetensorsReader, config: Any) -> None:
        """Take over an open folder. `config`: what it says of its floats.

        Raises: UnsupportedFormat for a variant that is not read here.
        """
        self._reader = reader
        self.path: Path = reader.path
        self._blocks = float8_blocks(str(reader.path), config)
        self._stored = frozenset(reader.names())
        self._modules = frozenset(
            name.removesuffix(_WEIGHT)
            for name in self._stored
            if name.endswith(_WEIGHT) and reader.is_float8(name)
        )
        if not self._modules:
            raise UnsupportedFormat(
                f"{reader.path}: quantization_config says {config['quant_method']} with floats of "
                "8 bits, and no matrix is F8_E4M3. Use the unquantized model, or GGUF."
            )
        self.architecture = reader.architecture
        self.metadata = reader.metadata

    def names(self) -> Sequence[str]:
        """Names of the tensors as the unquantized model has them, sorted."""
        suffixes = (*_SCALES, _ACTIVATION_SCALE)
        parts = {module + suffix for module in self._modules for suffix in suffixes}
        return tuple(sorted(name for name in self._stored - parts if not name.endswith(_KV_SCALES)))

    def tensor(self, name: str) -> QuantTensor:
        """A tensor; of a matrix in float8 its codes, kept exactly, with the scale of each row.

        Raises: MissingTensor, UnsupportedFormat, ModelFileError.
        """
        module = self._module_of(name)
        if module is None:
            return self._reader.tensor(name)
        codes = self._codes(name)
        if (codes & float8.NAN_CODE == float8.NAN_CODE).any():
            raise ModelFileError(f"{self.path}: {name!r} holds values that are no numbers.")
        scales = self._scales(module, *codes.shape)
        if scales.ndim == 1:
            return QuantTensor(F8_E4M3, codes.shape, float8.join_rows(codes, scales))
        return quantize(float8.VALUES[codes] * scales, "bf16")

    def outline(self, name: str) -> QuantTensor:
        """Format and shape of a tensor; the data of a matrix in float8 is not read.

        Raises: as `tensor`.
        """
        if self._module_of(name) is None:
            return self._reader.outline(name)
        shape, fmt = self._codes(name).shape, self._format
        return QuantTensor(fmt, shape, np.empty((shape[0], fmt.row_bytes(shape[1])), np.uint8))

    def release(self) -> None:
        """Give mapped pages back to the system; reading a tensor later maps them again."""
        self._reader.release()

    def close(self) -> None:
        """Let go of the folder."""
        self._reader.close()

    @property
    def _format(self) -> QuantFormat:
        return F8_E4M3 if self._blocks is None else FORMATS["bf16"]

    def _module_of(self, name: str) -> str | None:
        module = name.removesuffix(_WEIGHT)
        return module if module != name and module in self._modules else None

    def _codes(self, name: str) -> NDArray[np.uint8]:
        codes = self._reader.float8_codes(name)
        if codes.ndim != 2 or not codes.size:
            raise UnsupportedFormat(
                f"{self.path}: {name!r} is float8 of shape {list(codes.shape)}, not a matrix."
            )
        return codes

    def _scales(self, module: str, rows: int, columns: int) -> NDArray[np.float32]:
        """Of each row, or of each weight where blocks have them. Shapes: [out] or [out, in]."""
        name = next((module + end for end in _SCALES if module + end in self._stored), None)
        if name is None:
            raise MissingTensor(module + _SCALES[0], str(self.path))
        stored = self._reader.tensor(name).dequantize()
        if not np.isfinite(stored).all():
            raise ModelFileError(f"{self.path}: {name!r} holds scales that are not finite.")
        if self._blocks is not None:
            height, width = self._blocks
            wanted = (-(-rows // height), -(-columns // width))
            if stored.shape == wanted:
                tall = np.repeat(stored, height, axis=0)[:rows]
                return np.repeat(tall, width, axis=1)[:, :columns]
        elif stored.size in (1, rows):
            return np.broadcast_to(stored.reshape(-1), (rows,))
        raise ModelFileError(
            f"{self.path}: {name!r} has shape {list(stored.shape)} for a matrix of [{rows}, "
            f"{columns}]; expected is one scale, one per row, or one per block as the config says."
        )
