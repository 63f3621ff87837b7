"""GGUF models: one file, or the parts of a split one.

In: a path. Out: metadata and tensors as views of the mapped files, checked when opened.
Knows nothing of architectures or tokenizers.
Source: ggml, docs/gguf.md; llama.cpp, tools/gguf-split (names and keys of parts).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from headrace.core.errors import MissingTensor, ModelFileError
from headrace.quant.quant_tensor import QuantTensor
from headrace.weights.gguf_cursor import ArraySpan, GgufCursor
from headrace.weights.gguf_part import GgufPart

_MAX_PARTS = 1024


class GgufMetadata(Mapping[str, object]):
    """Key-values of a file. Numbers and strings are decoded; arrays become lists on first use."""

    def __init__(self, path: Path, buffer: mmap.mmap, values: dict[str, object]) -> None:
        self._path, self._buffer, self._values = path, buffer, values
        self._lists: dict[str, list[object]] = {}

    def __getitem__(self, key: str) -> object:
        """The value of a key.

        Raises: KeyError; ModelFileError if a string of an array is not UTF-8.
        """
        value = self._values[key]
        if not isinstance(value, ArraySpan):
            return value
        decoded = self._lists.get(key)  # once: another thread may release it in between
        if decoded is None:
            decoded = GgufCursor(self._path, self._buffer).array(value, repr(key))
            self._lists[key] = decoded
        return decoded

    def __contains__(self, key: object) -> bool:
        return key in self._values  # not by decoding, as Mapping would

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def count(self, key: str) -> int:
        """Items of an array, without decoding it. Raises: KeyError, ModelFileError."""
        value = self._values[key]
        if not isinstance(value, ArraySpan):
            raise ModelFileError(f"{self._path} has {key} = {value!r}; an array is needed.")
        return value.count

    def release(self) -> None:
        """Forget decoded lists; they are decoded again when asked for."""
        self._lists.clear()


class GgufReader:
    """An open GGUF model; a WeightReader."""

    kind: Literal["gguf"] = "gguf"

    def __init__(self, path: Path) -> None:
        """Map the file, and the other parts if it is the first of a split model.

        Raises: ModelFileError, UnsupportedFormat.
        """
        self.path = path
        self._parts = [GgufPart(path)]
        self._part_of: dict[str, GgufPart] = {}
        try:
            first = self._parts[0]
            others = list(_other_parts(first))
            self.architecture = _architecture(first)
            for other in others:
                self._parts.append(_open_part(other, first, len(self._parts)))
            self._index()
        except BaseException:
            self.close()
            raise
        self.metadata = GgufMetadata(path, first.buffer, first.values)

    def names(self) -> Sequence[str]:
        """Names of the tensors, in the file's order."""
        return tuple(self._part_of)

    def tensor(self, name: str) -> QuantTensor:
        """A tensor as stored: a read-only view of the file.

        Raises: MissingTensor.
        """
        part = self._part_of.get(name)
        if part is None:
            raise MissingTensor(name, str(self.path))
        return part.tensor(name)

    def outline(self, name: str) -> QuantTensor:
        """A tensor for its format and shape: here the tensor itself. Raises: MissingTensor."""
        return self.tensor(name)

    def raw_metadata(self) -> dict[str, bytes]:
        """Every key of `metadata`, its value as stored, type code first."""
        return self._parts[0].raw_values()

    def metadata_digest(self) -> str:
        """sha256 of what `metadata` is read from: equal for equal metadata, wherever it lies."""
        return self._parts[0].metadata_digest()

    def release(self) -> None:
        """Give mapped pages back to the system; reading a tensor later maps them again."""
        self.metadata.release()
        for part in self._parts:
            part.release()

    def close(self) -> None:
        """Let go of the file. Tensors that are still held keep the mapping alive.

        Arrays of the metadata can no longer be decoded.
        """
        self._part_of = {}
        for part in self._parts:
            part.close()

    def _index(self) -> None:
        for part in self._parts:
            for name in part.entries:
                if name in self._part_of:
                    other = self._part_of[name].path
                    raise ModelFileError(f"{part.path} has tensor {name!r}, which {other} has too.")
                self._part_of[name] = part
        wanted = self._parts[0].values.get("split.tensors.count")
        if len(self._parts) > 1 and wanted != len(self._part_of):
            raise ModelFileError(
                f"{self.path}: the {len(self._parts)} parts hold {len(self._part_of)} tensors, "
                f"and split.tensors.count is {wanted!r}. Fetch the parts again."
            )


def _architecture(first: GgufPart) -> str:
    architecture = first.values.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise ModelFileError(
            f"{first.path} does not name its architecture in general.architecture."
        )
    if architecture == "llama" and first.values.get("llama.expert_count"):
        return "mixtral"  # GGUF has one word for both
    return architecture


def _split_key(part: GgufPart, key: str) -> int:
    value = part.values.get(f"split.{key}", 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_PARTS:
        raise ModelFileError(
            f"{part.path} is damaged: split.{key} is {value!r}; allowed: 0 to {_MAX_PARTS}."
        )
    return value


def _other_parts(first: GgufPart) -> Iterator[Path]:
    """Paths of the parts after the first, which the tool that splits names by number."""
    num_parts = _split_key(first, "count")
    if num_parts < 2:
        return
    suffix = f"-00001-of-{num_parts:05d}.gguf"
    if _split_key(first, "no") != 0 or not first.path.name.endswith(suffix):
        raise ModelFileError(
            f"{first.path} is part {_split_key(first, 'no') + 1} of {num_parts} of a split model. "
            f"Give the first part, NAME{suffix}, with the others beside it."
        )
    stem = first.path.name.removesuffix(suffix)
    for number in range(2, num_parts + 1):
        path = first.path.with_name(f"{stem}-{number:05d}-of-{num_parts:05d}.gguf")
        if not path.is_file():
            raise ModelFileError(
                f"{first.path} is the first of {num_parts} parts, and {path.name} is not beside it."
            )
        yield path


def _open_part(path: Path, first: GgufPart, number: int) -> GgufPart:
    part = GgufPart(path)
    if (_split_key(part, "no"), _split_key(part, "count")) != (number, _split_key(first, "count")):
        part.close()
        raise ModelFileError(f"{path} says that it is another part than its name tells.")
    return part
