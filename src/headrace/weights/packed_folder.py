"""PackedFolder: a Hugging Face folder whose matrices are packed integers, as a WeightReader.

In: an open folder, and what it says of its packing. Out: the names that the unquantized model has,
each matrix in a format of ours that holds its integers exactly. A matrix is converted when it is
asked for; nothing is kept. Which modules are packed is read off their tensors, not off the lists
of the config. Knows nothing of bit orders: packings.py does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.quant.format import FORMATS
from headrace.quant.packed_words import GroupScales, to_tensor
from headrace.quant.quant_tensor import QuantTensor
from headrace.weights.packings import packing_of
from headrace.weights.safetensors import SafetensorsReader, read_json

_QUANTIZATION = "quantization_config"
_WEIGHT = ".weight"
# Files of AutoGPTQ's and AutoAWQ's first releases, and what these need not say in them.
_OLD_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}


def quantization_of(reader: SafetensorsReader) -> object | None:
    """What a folder says of packed matrices; None where it says nothing. Raises: ModelFileError."""
    told = reader.metadata.get(_QUANTIZATION)
    if told is not None:
        return told
    for name, method in _OLD_FILES.items():
        if (reader.path / name).is_file():
            found = read_json(reader.path, name)
            bits = {"bits": found["w_bit"]} if "w_bit" in found else {}
            return {"quant_method": method, **bits, **found}
    return None


class PackedFolder:
    """An open quantized folder; a WeightReader."""

    kind: Literal["safetensors"] = "safetensors"

    def __init__(self, reader: SafetensorsReader, config: object) -> None:
        """Take over an open folder. `config`: see quantization_of.

        Raises: UnsupportedFormat for a method, or a variant of one, that is not read here.
        """
        self._reader = reader
        self._packing = packing_of(str(reader.path), config if isinstance(config, dict) else {})
        self._stored = frozenset(reader.names())
        self._modules = frozenset(
            name.removesuffix(self._packing.main)
            for name in self._stored
            if name.endswith(self._packing.main) and self._has_scales(name)
        )
        self.path: Path = reader.path
        self.architecture = reader.architecture
        self.metadata = reader.metadata

    def names(self) -> Sequence[str]:
        """Names of the tensors as the unquantized model has them, sorted."""
        suffixes = (self._packing.main, *self._packing.others)
        parts = {module + suffix for module in self._modules for suffix in suffixes}
        return tuple(sorted((self._stored - parts) | {m + _WEIGHT for m in self._modules}))

    def tensor(self, name: str) -> QuantTensor:
        """A tensor; a packed matrix is converted, its integers kept exactly.

        Raises: MissingTensor, UnsupportedFormat, ModelFileError.
        """
        module = self._module_of(name)
        if module is None:
            return self._reader.tensor(name)
        groups = self._groups(module)
        try:
            q = self._packing.integers(module, self._read, groups)
            return to_tensor(q, groups)
        except ValueError as error:
            raise UnsupportedFormat(f"{self.path}: {name!r} has {error}.") from error

    def outline(self, name: str) -> QuantTensor:
        """Format and shape of a tensor; the data of a packed matrix is not read.

        Raises: as `tensor`.
        """
        module = self._module_of(name)
        if module is None:
            return self._reader.outline(name)
        groups = self._groups(module)
        try:
            fmt = FORMATS[groups.format_name]
            shape = (len(groups.scales), groups.width)
            return QuantTensor(fmt, shape, np.empty((shape[0], fmt.row_bytes(shape[1])), np.uint8))
        except ValueError as error:
            raise UnsupportedFormat(f"{self.path}: {name!r} has {error}.") from error

    def release(self) -> None:
        """Give mapped pages back to the system; reading a tensor later maps them again."""
        self._reader.release()

    def close(self) -> None:
        """Let go of the folder."""
        self._reader.close()

    def _has_scales(self, name: str) -> bool:
        module = name.removesuffix(self._packing.main)
        return any(module + suffix in self._stored for suffix in self._packing.others)

    def _module_of(self, name: str) -> str | None:
        module = name.removesuffix(_WEIGHT)
        return module if module != name and module in self._modules else None

    def _groups(self, module: str) -> GroupScales:
        try:
            groups = self._packing.scales(module, self._read, self._stored.__contains__)
        except (ValueError, IndexError, OverflowError) as error:
            raise ModelFileError(f"{self.path}: {module!r} is damaged: {error}.") from error
        if groups.zeros.shape != groups.scales.shape or groups.scales.shape[1] == 0:
            raise ModelFileError(
                f"{self.path}: {module!r} has scales {list(groups.scales.shape)} and zero points "
                f"{list(groups.zeros.shape)}; they must agree."
            )
        return groups

    def _read(self, name: str) -> NDArray[Any]:
        """A part of a module; floats as float32."""
        if self._reader.is_integer(name):
            return self._reader.integers(name)
        return self._reader.tensor(name).dequantize()
