"""One mapped GGUF file, versions 2 and 3, little-endian: header and tensor index, checked.

In: a path. Out: key-values and where each tensor lies. A damaged or hostile file ends in a
ModelFileError when it is opened, never in a crash or in unbounded work.
Source: ggml, docs/gguf.md, "File Structure".
"""

from __future__ import annotations

import hashlib
import math
import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.core.frozen import frozen
from headrace.quant.format import QuantFormat, by_ggml_type
from headrace.quant.quant_tensor import QuantTensor
from headrace.weights.file_kind import SHOWN_BYTES, describe_file
from headrace.weights.gguf_cursor import U32, U64, GgufCursor
from headrace.weights.mapped_file import map_file, unmap_file

GGUF_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20
_MAX_KEYS, _MAX_TENSORS = 1 << 16, 1 << 17
_MAX_KEY_BYTES, _MAX_NAME_BYTES = 65535, 256
_MAX_DIMS = 4
# Least bytes of an entry: a key's length, type and a one-byte value; a name's length, dimension
# count, one dimension, type and offset.
_KEY_BYTES, _ENTRY_BYTES = 13, 32


@frozen
class TensorEntry:
    """Where a tensor lies. Units: bytes from the start of the file."""

    name: str
    format: QuantFormat
    shape: tuple[int, ...]
    start: int
    stop: int


class GgufPart:
    """A file that is mapped and indexed."""

    def __init__(self, path: Path) -> None:
        """Map the file and check its header and tensor index.

        Raises: ModelFileError, UnsupportedFormat.
        """
        self.path = path
        self.buffer = map_file(path)
        try:
            cursor = GgufCursor(path, self.buffer)
            self.version, num_tensors, num_keys = _read_header(cursor)
            self.values, self._key_spans = _read_keys(cursor, num_keys)
            self._keys_stop = cursor.position
            self.alignment = _alignment(path, self.values)
            self.entries = _read_index(cursor, num_tensors, self.alignment)
        except BaseException:
            unmap_file(self.buffer)
            raise
        self._bytes: NDArray[np.uint8] = np.frombuffer(self.buffer, dtype=np.uint8)

    def tensor(self, name: str) -> QuantTensor:
        """A tensor of the index: a read-only view of the file."""
        entry = self.entries[name]
        data = self._bytes[entry.start : entry.stop].reshape(math.prod(entry.shape[:-1]), -1)
        return QuantTensor(entry.format, entry.shape, data)

    def raw_values(self) -> dict[str, bytes]:
        """Every key's value as it is stored, its type code first, to be written elsewhere."""
        return {key: bytes(self._bytes[a:b]) for key, (a, b) in self._key_spans.items()}

    def metadata_digest(self) -> str:
        """sha256 of header and key-values as they are stored, in hexadecimal."""
        return hashlib.sha256(self._bytes[: self._keys_stop].data).hexdigest()

    def release(self) -> None:
        """Give mapped pages back to the system."""
        if not self.buffer.closed:
            self.buffer.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Let go of the file. Tensors that are still held keep the mapping alive."""
        self._bytes = np.empty(0, dtype=np.uint8)
        self.entries = {}
        unmap_file(self.buffer)


def _read_header(cursor: GgufCursor) -> tuple[int, int, int]:
    if cursor.remaining() < 24:
        raise ModelFileError(
            f"{cursor.path} has {cursor.remaining()} bytes, too few for a GGUF file."
        )
    magic = cursor.number(U32, "the magic").to_bytes(4, "little")
    if magic != GGUF_MAGIC:
        with cursor.path.open("rb") as file:
            kind = describe_file(file.read(SHOWN_BYTES))
        raise UnsupportedFormat(f"{cursor.path} is not a GGUF file: it {kind}.")
    version = cursor.number(U32, "the version")
    if version not in _VERSIONS:
        is_big_endian = int.from_bytes(version.to_bytes(4, "little"), "big") in (*_VERSIONS, 1)
        given = "big-endian" if is_big_endian else f"version {version}"
        raise UnsupportedFormat(
            f"{cursor.path} is a {given} GGUF file; headrace reads versions 2 and 3, "
            "little-endian. Convert the model again with a current tool."
        )
    num_tensors, num_keys = cursor.number(U64, "a count"), cursor.number(U64, "a count")
    for count, what, maximum, least in (
        (num_tensors, "tensors", _MAX_TENSORS, _ENTRY_BYTES),
        (num_keys, "metadata keys", _MAX_KEYS, _KEY_BYTES),
    ):
        if count > maximum or count * least > cursor.remaining():
            raise cursor.fail(f"it claims {count} {what}, more than it can hold", 8)
    return version, num_tensors, num_keys


def _read_keys(
    cursor: GgufCursor, num_keys: int
) -> tuple[dict[str, object], dict[str, tuple[int, int]]]:
    """Values of the keys, and where each lies."""
    values: dict[str, object] = {}
    spans: dict[str, tuple[int, int]] = {}
    for index in range(num_keys):
        start = cursor.position
        key = cursor.text(f"metadata key {index}", _MAX_KEY_BYTES)
        if not key or key in values:
            raise cursor.fail(f"metadata key {index}, {key!r}, is empty or a duplicate", start)
        value_start = cursor.position
        values[key] = cursor.value(f"the value of {key!r}")
        spans[key] = (value_start, cursor.position)
    return values, spans


def _alignment(path: Path, values: dict[str, object]) -> int:
    given = values.get("general.alignment", _DEFAULT_ALIGNMENT)
    is_int = isinstance(given, int) and not isinstance(given, bool)
    if not is_int or not 1 <= given <= _MAX_ALIGNMENT or given & (given - 1):  # type: ignore[operator]
        raise ModelFileError(
            f"{path} is damaged: general.alignment is {given!r}; allowed: a power of two up to "
            f"{_MAX_ALIGNMENT}."
        )
    return int(given)  # type: ignore[call-overload, no-any-return]


def _read_index(cursor: GgufCursor, num_tensors: int, alignment: int) -> dict[str, TensorEntry]:
    relative: dict[str, TensorEntry] = {}
    for index in range(num_tensors):
        start = cursor.position
        entry = _read_entry(cursor, index, alignment)
        if not entry.name or entry.name in relative:
            raise cursor.fail(f"tensor {index}, {entry.name!r}, is unnamed or a duplicate", start)
        relative[entry.name] = entry
    # Tensor data starts at the next aligned byte and offsets count from there.
    base = -(-cursor.position // alignment) * alignment
    entries: dict[str, TensorEntry] = {}
    for name, entry in relative.items():
        moved = TensorEntry(name, entry.format, entry.shape, base + entry.start, base + entry.stop)
        entries[name] = moved
    _check_extents(cursor, entries)
    return entries


def _read_entry(cursor: GgufCursor, index: int, alignment: int) -> TensorEntry:
    name = cursor.text(f"the name of tensor {index}", _MAX_NAME_BYTES)
    num_dims = cursor.number(U32, f"the dimension count of {name!r}")
    if not 1 <= num_dims <= _MAX_DIMS:
        raise cursor.fail(f"{name!r} has {num_dims} dimensions, allowed are 1 to {_MAX_DIMS}")
    # The file lists the fastest axis first, numpy last.
    dims = [cursor.number(U64, f"a dimension of {name!r}") for _ in range(num_dims)]
    shape = tuple(reversed(dims))
    if 0 in shape:
        raise cursor.fail(f"{name!r} has shape {shape}, and no dimension may be 0")
    type_code = cursor.number(U32, f"the type of {name!r}")
    offset = cursor.number(U64, f"the offset of {name!r}")
    try:
        fmt = by_ggml_type(type_code)
    except UnsupportedFormat as error:
        raise UnsupportedFormat(f"{cursor.path}, tensor {name!r}: {error.message}") from error
    if shape[-1] % fmt.block_size:
        raise cursor.fail(
            f"{name!r} has rows of {shape[-1]} weights, not a multiple of {fmt.name}'s "
            f"block of {fmt.block_size}"
        )
    if offset % alignment:
        raise cursor.fail(f"{name!r} has offset {offset}, not a multiple of {alignment}")
    num_bytes = math.prod(shape[:-1]) * fmt.row_bytes(shape[-1])
    return TensorEntry(name, fmt, shape, offset, offset + num_bytes)


def _check_extents(cursor: GgufCursor, entries: dict[str, TensorEntry]) -> None:
    size = cursor.position + cursor.remaining()
    previous: TensorEntry | None = None
    for entry in sorted(entries.values(), key=lambda entry: entry.start):
        if entry.stop > size:
            raise ModelFileError(
                f"{cursor.path} is truncated or damaged: tensor {entry.name!r} takes bytes "
                f"{entry.start} to {entry.stop}, but the file ends at byte {size}. "
                "Fetch the file again."
            )
        if previous is not None and entry.start < previous.stop:
            raise cursor.fail(f"tensors {previous.name!r} and {entry.name!r} overlap", entry.start)
        previous = entry
