"""Hugging Face folders: config.json with one model.safetensors or an index of shards.

In: a folder. Out: metadata (the config) and tensors as views of the mapped shards. The safetensors
library checks each header (sizes, offsets, overlaps); the data is mapped here, because numpy has no
bfloat16 for the library to return. Knows nothing of architectures or tokenizers.
Source: safetensors, README, "Format".
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from headrace.core.errors import MissingTensor, ModelFileError, UnsupportedFormat
from headrace.core.frozen import frozen
from headrace.quant.format import FORMATS
from headrace.quant.quant_tensor import QuantTensor
from headrace.weights.mapped_file import map_file, unmap_file

MAX_JSON_BYTES = 1 << 26
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_FORMAT_NAMES = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_INTEGER_TYPES = {"I8": "<i1", "U8": "<u1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
# What GGUF calls a model_type, where that is another word.
_ARCHITECTURES = {"gemma3_text": "gemma3", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe"}


@frozen
class _StoredTensor:
    """Where a tensor lies in a shard. Units: bytes from the start of the shard."""

    shard: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsReader:
    """An open Hugging Face folder; a WeightReader."""

    kind: Literal["safetensors"] = "safetensors"

    def __init__(self, path: Path) -> None:
        """Read the config and map every shard.

        Raises: ModelFileError, UnsupportedFormat.
        """
        self.path = path
        self.metadata: Mapping[str, object] = read_json(path, "config.json")
        self.architecture = _architecture(path, self.metadata)
        self._maps: dict[str, mmap.mmap] = {}
        self._bytes: dict[str, NDArray[np.uint8]] = {}
        self._tensors: dict[str, _StoredTensor] = {}
        try:
            self._open_shards(_shards(path))
            self._tensors = _with_head_names(self._tensors)
        except BaseException:
            self.close()
            raise

    def names(self) -> Sequence[str]:
        """Names of the tensors as a model with a head has them, sorted."""
        return tuple(sorted(self._tensors))

    def tensor(self, name: str) -> QuantTensor:
        """A tensor as stored: a read-only view of its shard.

        Raises: MissingTensor; UnsupportedFormat for a dtype that is not f32, f16 or bf16.
        """
        stored = self._find(name)
        return _view(name, stored, self._bytes[stored.shard], self.path / stored.shard)

    def outline(self, name: str) -> QuantTensor:
        """A tensor for its format and shape: here the tensor itself. Raises: as `tensor`."""
        return self.tensor(name)

    def is_integer(self, name: str) -> bool:
        """Whether a tensor holds integers. Raises: MissingTensor."""
        return self._find(name).dtype in _INTEGER_TYPES

    def integers(self, name: str) -> NDArray[Any]:
        """Integers as stored: a read-only view of the shard, perhaps not aligned.

        Raises: MissingTensor; UnsupportedFormat for a tensor of another kind.
        """
        stored = self._find(name)
        if stored.dtype not in _INTEGER_TYPES:
            raise UnsupportedFormat(
                f"{self.path / stored.shard}: tensor {name!r} is {stored.dtype}, not integers."
            )
        found: NDArray[Any] = self._data(stored).view(_INTEGER_TYPES[stored.dtype])
        return found.reshape(stored.shape)

    def is_float8(self, name: str) -> bool:
        """Whether a tensor holds floats of 8 bits, e4m3. Raises: MissingTensor."""
        return self._find(name).dtype == "F8_E4M3"

    def float8_codes(self, name: str) -> NDArray[np.uint8]:
        """The codes of such a tensor: a read-only view of the shard. Raises: MissingTensor."""
        stored = self._find(name)
        return self._data(stored).reshape(stored.shape)

    def release(self) -> None:
        """Give mapped pages back to the system; reading a tensor later maps them again."""
        for mapped in self._maps.values():
            mapped.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Let go of the shards. Tensors that are still held keep their mapping alive."""
        self._tensors, self._bytes = {}, {}
        while self._maps:
            unmap_file(self._maps.popitem()[1])

    def _find(self, name: str) -> _StoredTensor:
        stored = self._tensors.get(name)
        if stored is None:
            raise MissingTensor(name, str(self.path))
        return stored

    def _data(self, stored: _StoredTensor) -> NDArray[np.uint8]:
        return self._bytes[stored.shard][stored.start : stored.stop]

    def _open_shards(self, shards: Mapping[str, frozenset[str] | None]) -> None:
        for shard, wanted in shards.items():
            stored = _read_header(self.path / shard, shard)
            missing = sorted((wanted or frozenset()) - stored.keys())
            if missing:
                raise MissingTensor(missing[0], f"{self.path / shard}, named by {_INDEX},")
            if wanted is not None:  # the index decides which shard a tensor is read from
                stored = {name: stored[name] for name in wanted}
            self._tensors.update(stored)
            self._maps[shard] = map_file(self.path / shard)
            self._bytes[shard] = np.frombuffer(self._maps[shard], dtype=np.uint8)


def read_tensors(path: Path) -> dict[str, QuantTensor]:
    """All tensors of a small file, read into memory. Raises: ModelFileError, UnsupportedFormat."""
    header = _read_header(path, path.name)
    data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    return {name: _view(name, stored, data, path) for name, stored in header.items()}


def _view(name: str, stored: _StoredTensor, data: NDArray[np.uint8], path: Path) -> QuantTensor:
    """A tensor of a file. Raises: UnsupportedFormat."""
    format_name = _FORMAT_NAMES.get(stored.dtype)
    if format_name is None or 0 in stored.shape:
        raise UnsupportedFormat(
            f"{path}: tensor {name!r} is {stored.dtype} of shape {stored.shape}; headrace reads "
            f"{', '.join(_FORMAT_NAMES)} with no empty axis."
        )
    shape = stored.shape or (1,)
    rows = data[stored.start : stored.stop].reshape(math.prod(shape[:-1]), -1)
    return QuantTensor(FORMATS[format_name], shape, rows)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of a folder. Raises: ModelFileError."""
    path = folder / name
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelFileError(f"{path} has more than {MAX_JSON_BYTES} bytes.")
        parsed = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelFileError(
            f"{folder} has no {name}. A Hugging Face folder holds config.json and safetensors."
        ) from error
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1} is not UTF-8"
        raise ModelFileError(f"{path} is not JSON: {reason}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is not JSON: {error}.") from error
    if not isinstance(parsed, dict):
        kind = "an array" if isinstance(parsed, list) else "no object"
        raise ModelFileError(f"{path} holds {kind}, and must hold an object.")
    return parsed


def _with_head_names(tensors: dict[str, _StoredTensor]) -> dict[str, _StoredTensor]:
    """A decoder that was saved without its head, as embedding models are, by the names that it has
    inside a model with one."""
    if "embed_tokens.weight" not in tensors:
        return tensors
    return {
        name if name.startswith("lm_head.") else f"model.{name}": stored
        for name, stored in tensors.items()
    }


def _architecture(folder: Path, config: Mapping[str, object]) -> str:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise ModelFileError(f"{folder / 'config.json'} does not name its model_type.")
    return _ARCHITECTURES.get(model_type, model_type)


def _shards(folder: Path) -> Mapping[str, frozenset[str] | None]:
    """Shard file -> names the index puts there, or None for all of a single file."""
    if (folder / _INDEX).is_file():
        return _shards_of_index(folder)
    if (folder / _SINGLE).is_file():
        return {_SINGLE: None}
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if len(others) == 1:  # gptq_model-4bit-128g.safetensors
        return {others[0]: None}
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise UnsupportedFormat(
            f"{folder} holds pickled weights, which can run code; headrace does not read them. "
            "Get the model as safetensors."
        )
    several = f", but {len(others)} files: {', '.join(others[:4])}" if others else ""
    raise ModelFileError(f"{folder} has neither {_SINGLE} nor {_INDEX}{several}.")


def _shards_of_index(folder: Path) -> Mapping[str, frozenset[str]]:
    weight_map = read_json(folder, _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(f"{folder / _INDEX} has no weight_map from tensors to files.")
    wanted: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        # A plain file name: an index must not reach outside its folder.
        is_plain = isinstance(shard, str) and shard == Path(shard).name and "\\" not in shard
        if not is_plain or not shard.endswith(".safetensors") or "\0" in shard:
            raise ModelFileError(
                f"{folder / _INDEX} puts {name!r} in {shard!r}; allowed: the name of a "
                ".safetensors file in the same folder."
            )
        wanted.setdefault(shard, set()).add(name)
    absent = sorted(shard for shard in wanted if not (folder / shard).is_file())
    if absent:
        raise ModelFileError(
            f"{folder} lacks {len(absent)} of {len(wanted)} shards that {_INDEX} names: "
            f"{', '.join(absent[:4])}. Fetch the model again."
        )
    return {shard: frozenset(names) for shard, names in sorted(wanted.items())}


def _read_header(path: Path, shard: str) -> dict[str, _StoredTensor]:
    try:
        with safe_open(path, framework="numpy"):  # the library's checks of the whole header
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except SafetensorError as error:
        raise ModelFileError(f"{path} is truncated or damaged: {error}.") from error
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}.") from error
    header.pop("__metadata__", None)
    base = 8 + length
    return {
        name: _StoredTensor(
            shard,
            entry["dtype"],
            tuple(entry["shape"]),
            base + entry["data_offsets"][0],
            base + entry["data_offsets"][1],
        )
        for name, entry in header.items()
    }
