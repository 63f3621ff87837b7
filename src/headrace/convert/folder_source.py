"""A Hugging Face folder as what a GGUF file is made from: llama.cpp's names, shapes and orders.

In: an open reader of safetensors. Out: what `quantize_file` asks of a source. The table of
weights.names is read backwards: parts that GGUF keeps in one tensor are joined, experts stacked,
Llama's q and k rows interleaved again. Norms, biases and routers become float32, as llama.cpp wants
them; every other tensor stays as stored. Builds a tensor when it is asked for and keeps none.
Source: llama.cpp, convert_hf_to_gguf.py, ModelBase.prepare_tensors and modify_tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from headrace.convert.format_plan import SourceTensor, is_rounded
from headrace.convert.gguf_numbers import gguf_numbers
from headrace.core.errors import MissingTensor, ModelFileError, UnsupportedFormat
from headrace.core.frozen import frozen
from headrace.executor.load import ModelTensors, check_shape, linear_shape, read_config, vector_size
from headrace.models.model_config import ModelConfig
from headrace.models.registry import ENCODERS, model_class
from headrace.quant.format import F8_E4M3, FORMATS
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.quantize import quantize
from headrace.text.gguf_keys import tokenizer_keys
from headrace.weights.gguf_writer import KeyValue
from headrace.weights.names import sources, take_source
from headrace.weights.tensor_source import TensorSource
from headrace.weights.weight_reader import WeightReader


@frozen
class _Part:
    """One of our tensors, and its place in the file that is written."""

    ours: str
    place: TensorSource


class FolderSource:
    """A source. `notes` are what GGUF cannot say of the model, for people."""

    def __init__(self, reader: WeightReader) -> None:
        """Find every tensor and say every number in GGUF.

        Raises: MissingTensor, ModelFileError, UnsupportedFormat.
        """
        self._reader = reader
        if reader.architecture in ENCODERS:
            raise UnsupportedFormat(
                f"{reader.path} is an encoder, which headrace does not write as GGUF. Its folder "
                "is rounded when it is loaded: encoder_dtype = q8_0, or embed --dtype q8_0."
            )
        self._config = read_config(model_class(reader.architecture), reader)
        self._ours = ModelTensors.open(reader, self._config)
        self._ours.refuse_unread()
        numbers = gguf_numbers(reader.architecture, self._config, reader.metadata)
        text = tokenizer_keys(reader.path, self._config.vocab_size)
        self._keys: dict[str, KeyValue] = {
            "general.type": "model",
            "general.name": reader.path.resolve().name,
            **numbers.keys,
            **text.keys,
        }
        self.notes = (*numbers.notes, *text.notes)
        self._rope = {
            f"{name}.weight": QuantTensor.from_array(np.array(factors, np.float32))
            for name, factors in numbers.rope_factors.items()
        }
        self._parts = self._group()
        self.tensors: Sequence[SourceTensor] = (
            *map(self._describe, self._parts),
            *(SourceTensor(name, held.format, held.shape) for name, held in self._rope.items()),
        )

    def keys(self) -> Mapping[str, KeyValue]:
        return self._keys

    def tensor(self, name: str) -> QuantTensor:
        if name in self._rope:
            return self._rope[name]
        parts = self._parts[name]
        return _as_stored(name, _joined(name, [(p, self._ours.get(p.ours)) for p in parts]))

    def release(self) -> None:
        self._reader.release()

    def _group(self) -> dict[str, list[_Part]]:
        """Our tensors by the name of the one they are written to."""
        config, architecture = self._config, self._reader.architecture
        places = sources(architecture, "gguf", config.num_layers, self._keys)
        groups: dict[str, list[_Part]] = {}
        for ours, place in places.items():
            if self._ours.has(ours):
                groups.setdefault(place.name, []).append(_Part(ours, place))
            elif ours in self._ours.table and not self._ours.table[ours].is_optional:
                raise MissingTensor(self._ours.table[ours].name, str(self._reader.path))
        if config.is_head_tied is False and not self._ours.has("head"):
            raise MissingTensor(self._ours.table["head"].name, str(self._reader.path))
        return groups

    def _describe(self, name: str) -> SourceTensor:
        """Format and shape, of outlines; and every part has the shape that the config says."""
        outlines = []
        for part in self._parts[name]:
            source = self._ours.table[part.ours]
            outline = self._reader.outline(source.name)
            taken = take_source(self._reader.path, outline, source)
            check_shape(part.ours, taken, _shape_of(self._config, part.ours))
            outlines.append((part, taken))
        first = outlines[0][1].format
        if all(outline.format is F8_E4M3 for _, outline in outlines):
            first = FORMATS["bf16"]
        elif any(outline.format != first for _, outline in outlines):
            raise UnsupportedFormat(
                f"{self._reader.path}: {name} is made of {len(outlines)} tensors of several "
                "formats, which one tensor of GGUF cannot hold."
            )
        described = SourceTensor(name, first, _joined_shape(outlines))
        return described if is_rounded(described) else replace(described, format=FORMATS["f32"])


def _shape_of(config: ModelConfig, ours: str) -> tuple[int, ...]:
    name = ours.rpartition(".")[2]
    if name in ("embed", "head"):
        return (config.vocab_size, config.hidden_size)
    if name.endswith("norm"):
        return (vector_size(config, name),)
    rows, columns = linear_shape(config, name.removesuffix("_bias"))
    return (rows,) if name.endswith("_bias") else (rows, columns)


def _joined_shape(parts: Sequence[tuple[_Part, QuantTensor]]) -> tuple[int, ...]:
    place, first = parts[0][0].place, parts[0][1]
    if place.matrix is not None:
        return (len(parts), *first.shape)
    if place.transform == "as_row":
        return first.shape[1:]
    return (sum(tensor.shape[0] for _, tensor in parts), *first.shape[1:])


def _joined(name: str, parts: Sequence[tuple[_Part, QuantTensor]]) -> QuantTensor:
    """The tensor of the file. Parts come in the order of their rows or of their experts."""
    shape = _joined_shape(parts)
    ordered = [_in_file_order(name, part.place, tensor) for part, tensor in parts]
    if len(ordered) == 1:
        return replace(ordered[0], shape=shape)
    if len(shape) == 1:
        return QuantTensor.from_array(np.concatenate([each.dequantize() for each in ordered]))
    return replace(ordered[0], shape=shape, data=np.concatenate([each.data for each in ordered]))


def _in_file_order(name: str, place: TensorSource, tensor: QuantTensor) -> QuantTensor:
    """Undo what reading the place would do."""
    if place.transform != "unpermute_rope":
        return tensor
    num_rows = tensor.shape[0]
    if num_rows % (2 * place.num_heads):
        raise ModelFileError(
            f"{name}: {num_rows} rows are not {place.num_heads} heads of an even size."
        )
    order = np.arange(num_rows).reshape(place.num_heads, 2, -1).swapaxes(1, 2).reshape(-1)
    if len(tensor.shape) == 1:
        return QuantTensor.from_array(tensor.dequantize()[order])
    return tensor.take_rows(order)


def _as_stored(name: str, tensor: QuantTensor) -> QuantTensor:
    """Float32 where llama.cpp wants it; floats of 8 bits, which GGUF lacks, as bf16."""
    if is_rounded(SourceTensor(name, tensor.format, tensor.shape)):
        is_float8 = tensor.format is F8_E4M3
        return quantize(tensor.dequantize(), "bf16") if is_float8 else tensor
    return QuantTensor.from_array(tensor.dequantize())
