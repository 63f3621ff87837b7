"""A GGUF file as what a quantized one is made from: its keys as stored, its tensors by name.

In: an open reader. Out: what `quantize_file` asks of a source. Keys are copied byte for byte, so
that a tokenizer or template that headrace does not understand survives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace.convert.format_plan import SourceTensor
from headrace.quant.quant_tensor import QuantTensor
from headrace.weights.gguf import GgufReader
from headrace.weights.gguf_writer import KeyValue, RawValue

# They describe the parts of a split model; what is written is one file.
_OF_PARTS = "split."


class GgufSource:
    """A source; `tensor` gives views of the mapped file."""

    def __init__(self, reader: GgufReader) -> None:
        self._reader = reader
        self.tensors: Sequence[SourceTensor] = tuple(map(self._describe, reader.names()))

    def keys(self) -> Mapping[str, KeyValue]:
        raw = self._reader.raw_metadata()
        return {k: RawValue(data) for k, data in raw.items() if not k.startswith(_OF_PARTS)}

    def tensor(self, name: str) -> QuantTensor:
        return self._reader.tensor(name)

    def release(self) -> None:
        self._reader.release()

    def _describe(self, name: str) -> SourceTensor:
        tensor = self._reader.tensor(name)
        return SourceTensor(name, tensor.format, tensor.shape)
