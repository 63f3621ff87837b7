"""Writes small GGUF files, right and wrong, byte by byte.

The gguf package writes only valid files; here every count, type and offset can be set to anything.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.quant.quant_tensor import QuantTensor

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return u64(len(raw)) + raw


def string_value(value: str | bytes) -> bytes:
    return u32(STRING) + text(value)


def u32_value(value: int) -> bytes:
    return u32(U32) + u32(value)


def array_value(item_type: int, items: Sequence[bytes], count: int | None = None) -> bytes:
    number = len(items) if count is None else count
    return u32(ARRAY) + u32(item_type) + u64(number) + b"".join(items)


def tensor_info(name: str | bytes, dims: Sequence[int], ggml_type: int, offset: int) -> bytes:
    head = text(name) + u32(len(dims)) + b"".join(u64(size) for size in dims)
    return head + u32(ggml_type) + u64(offset)


@dataclass
class GgufFile:
    """The parts of a file; `to_bytes` joins them. Counts follow the parts unless they are set."""

    keys: list[tuple[str | bytes, bytes]] = field(
        default_factory=lambda: [("general.architecture", string_value("llama"))]
    )
    infos: list[bytes] = field(default_factory=list)
    data: bytes = b""
    magic: bytes = b"GGUF"
    version: bytes = u32(3)
    num_tensors: int | None = None
    num_keys: int | None = None
    alignment: int = 32

    def add(self, name: str, tensor: QuantTensor) -> GgufFile:
        """Append a tensor after the ones before it, padded."""
        self.data += b"\0" * (-len(self.data) % self.alignment)
        dims = list(reversed(tensor.shape))
        self.infos.append(tensor_info(name, dims, tensor.format.ggml_type, len(self.data)))
        self.data += tensor.data.tobytes()
        return self

    def to_bytes(self) -> bytes:
        num_tensors = len(self.infos) if self.num_tensors is None else self.num_tensors
        num_keys = len(self.keys) if self.num_keys is None else self.num_keys
        head = self.magic + self.version + u64(num_tensors) + u64(num_keys)
        head += b"".join(text(key) + value for key, value in self.keys)
        head += b"".join(self.infos)
        return head + b"\0" * (-len(head) % self.alignment) + self.data
