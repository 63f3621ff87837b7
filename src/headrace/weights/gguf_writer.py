"""Writes GGUF files, version 3, little-endian: keys, tensor index, then tensors one at a time.

In: keys, the list of tensors, their blocks in that order. Out: a file that appears under its name
only when it is whole. Holds one tensor at a time. Knows nothing of architectures or of rounding.
Source: ggml, docs/gguf.md, "File Structure".
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from headrace.core.frozen import frozen
from headrace.quant.format import QuantFormat
from headrace.quant.quant_tensor import QuantTensor
from headrace.weights.gguf_part import GGUF_MAGIC

ALIGNMENT = 32
PARTIAL_SUFFIX = ".part"
_VERSION = 3
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY, _U64 = 4, 5, 6, 7, 8, 9, 10


@frozen
class RawValue:
    """A value as another file stores it: its type code and bytes."""

    data: bytes


KeyValue = RawValue | str | bool | int | float | Sequence[str] | Sequence[int] | Sequence[float]


@frozen
class TensorPlan:
    """What the index says of a tensor; numpy-order shape."""

    name: str
    format: QuantFormat
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape[:-1]) * self.format.row_bytes(self.shape[-1])


class GgufWriter:
    """A file being written. Leaving the block early, or by an error, leaves nothing behind."""

    def __init__(
        self, path: Path, keys: Mapping[str, KeyValue], tensors: Sequence[TensorPlan]
    ) -> None:
        """Write keys and index. Raises: ValueError for a key's value; OSError."""
        self.path = path
        self._tensors, self._num_written = list(tensors), 0
        self._partial = path.with_name(path.name + PARTIAL_SUFFIX)
        head = encode_head(keys, self._tensors)
        self._head_bytes = len(head)
        self._file = self._partial.open("w+b")
        try:
            self._file.write(head)
        except OSError:
            self._give_up()
            raise

    def __enter__(self) -> GgufWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None or self._num_written != len(self._tensors):
            self._give_up()
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.replace(self.path)
        except OSError:
            self._give_up()
            raise

    def _give_up(self) -> None:
        with contextlib.suppress(OSError):  # a full disk does not take what is still buffered
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def write(self, tensor: QuantTensor) -> None:
        """Write the next tensor. Raises: ValueError if it is not the one the index names."""
        if self._num_written == len(self._tensors):
            raise ValueError(f"{self.path} names {len(self._tensors)} tensors, and has them all")
        plan = self._tensors[self._num_written]
        if (tensor.format, tensor.shape) != (plan.format, plan.shape):
            raise ValueError(
                f"{plan.name} is {plan.format.name} {plan.shape} in the index of {self.path}, "
                f"not {tensor.format.name} {tensor.shape}"
            )
        self._file.write(tensor.data.data)
        self._file.write(bytes(-plan.num_bytes % ALIGNMENT))
        self._num_written += 1

    def readable(self) -> Path:
        """The partial file with all that was written so far, to be read before it is finished."""
        self._file.flush()
        return self._partial

    def replace_keys(self, keys: Mapping[str, KeyValue]) -> None:
        """Write other values of the keys. Raises: ValueError if they take more or less room."""
        head = encode_head(keys, self._tensors)
        if len(head) != self._head_bytes:
            raise ValueError(
                f"the new keys of {self.path} take {len(head)} bytes, not {self._head_bytes}"
            )
        self._file.seek(0)
        self._file.write(head)
        self._file.seek(0, os.SEEK_END)


def encode_head(keys: Mapping[str, KeyValue], tensors: Sequence[TensorPlan]) -> bytes:
    """Everything before the tensors, padded. Raises: ValueError for a value GGUF cannot hold."""
    # Of another file's keys, the one that would change where tensors lie is ours.
    kept = {key: value for key, value in keys.items() if key != "general.alignment"}
    parts = [GGUF_MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(kept))]
    for key, value in kept.items():
        parts += [_text(key), _value(key, value)]
    offset = 0
    for plan in tensors:
        dims = struct.pack(f"<I{len(plan.shape)}Q", len(plan.shape), *reversed(plan.shape))
        parts += [_text(plan.name), dims, struct.pack("<IQ", plan.format.ggml_type, offset)]
        offset += plan.num_bytes + -plan.num_bytes % ALIGNMENT
    head = b"".join(parts)
    return head + bytes(-len(head) % ALIGNMENT)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(key: str, value: KeyValue) -> bytes:
    if isinstance(value, RawValue):
        return value.data
    if isinstance(value, str | bool | int | float):
        code, data = _scalar(key, value)
        return struct.pack("<I", code) + data
    items = list(value)
    if not items:
        raise ValueError(f"{key}: GGUF has no type for an empty array")
    kinds = {type(item) for item in items}
    if kinds == {str}:
        code, data = _STRING, b"".join(_text(str(item)) for item in items)
    elif kinds == {int}:
        code, data = _I32, struct.pack(f"<{len(items)}i", *items)
    elif kinds == {float}:
        code, data = _F32, struct.pack(f"<{len(items)}f", *items)
    else:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"{key}: an array of {names}; allowed: all str, all int or all float")
    return struct.pack("<IIQ", _ARRAY, code, len(items)) + data


def _scalar(key: str, value: str | bool | int | float) -> tuple[int, bytes]:
    if isinstance(value, str):
        return _STRING, _text(value)
    if isinstance(value, bool):
        return _BOOL, struct.pack("<?", value)
    if isinstance(value, float):
        return _F32, struct.pack("<f", value)
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{key}: {value}; allowed: 0 to 2**64 - 1")
    return (_U32, struct.pack("<I", value)) if value < 1 << 32 else (_U64, struct.pack("<Q", value))
