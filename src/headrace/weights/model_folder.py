"""The reader of a Hugging Face folder, by how its weights are stored.

In: a folder with config.json. Out: a WeightReader: of floats, of float8, or of packed integers.
Imported for folders only: a start from a GGUF file needs none of it.
"""

from __future__ import annotations

from pathlib import Path

from headrace.weights.float8_folder import Float8Folder
from headrace.weights.packed_folder import PackedFolder, quantization_of
from headrace.weights.packings import is_float8
from headrace.weights.safetensors import SafetensorsReader
from headrace.weights.weight_reader import WeightReader


def open_folder(path: Path) -> WeightReader:
    """Open a folder. Raises: ModelFileError, UnsupportedFormat."""
    reader = SafetensorsReader(path)
    try:
        config = quantization_of(reader)
        if is_float8(config):
            return Float8Folder(reader, config)
        return reader if config is None else PackedFolder(reader, config)
    except BaseException:
        reader.close()
        raise
