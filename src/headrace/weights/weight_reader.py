"""WeightReader: what every model file looks like once open, and the function that opens one.

In: a path. Out: metadata and raw tensors by the names the file uses, memory-mapped.
Knows nothing of architectures: names.py maps a file's names to ours.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.quant.quant_tensor import QuantTensor
from headrace.weights.file_kind import SHOWN_BYTES, describe_file
from headrace.weights.gguf import GgufReader
from headrace.weights.gguf_part import GGUF_MAGIC

# Loaded where a model is a folder.
_FOLDERS = "headrace.weights.model_folder"


class WeightReader(Protocol):
    """An open model file. Tensors are views of the mapped file, valid while anyone holds them."""

    @property
    def path(self) -> Path: ...

    @property
    def kind(self) -> Literal["gguf", "safetensors"]: ...

    @property
    def architecture(self) -> str:
        """Such as "qwen2" or "gemma3", one word for both kinds of file."""
        ...

    @property
    def metadata(self) -> Mapping[str, object]:
        """GGUF key-values, or the parsed config.json."""
        ...

    def names(self) -> Sequence[str]:
        """Names of the tensors, as the file has them."""
        ...

    def tensor(self, name: str) -> QuantTensor:
        """A tensor as stored, without a copy.

        Raises: MissingTensor, UnsupportedFormat.
        """
        ...

    def outline(self, name: str) -> QuantTensor:
        """Format and shape of a tensor; its data may be unread and stand for nothing.

        Raises: as `tensor`.
        """
        ...

    def release(self) -> None:
        """Give mapped pages back to the system; reading a tensor later maps them again."""
        ...

    def close(self) -> None:
        """Let go of the file. Tensors that are still held stay valid."""
        ...


def open_weights(path: Path) -> WeightReader:
    """Open a GGUF file (of a split model, its first part) or a Hugging Face folder.

    Raises: ModelFileError, UnsupportedFormat.
    """
    if path.is_dir():
        folder: WeightReader = importlib.import_module(_FOLDERS).open_folder(path)
        return folder
    if not path.exists():
        raise ModelFileError(
            f"{path} does not exist. Give a GGUF file or a folder with config.json and safetensors."
        )
    if not path.is_file():
        raise ModelFileError(f"{path} is neither a file nor a folder.")
    try:
        with path.open("rb") as file:
            magic = file.read(SHOWN_BYTES)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error
    if magic.startswith(GGUF_MAGIC):
        return GgufReader(path)
    if path.suffix == ".safetensors":
        raise UnsupportedFormat(
            f"{path} is one safetensors file. Give its folder, which must also hold config.json."
        )
    raise UnsupportedFormat(
        f"{path} is not a model that headrace reads: it {describe_file(magic)}. Give a GGUF file "
        "or a folder with config.json and safetensors."
    )
