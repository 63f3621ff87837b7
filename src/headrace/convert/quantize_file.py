"""Quantizes a model file: a format for each tensor, rounded in pieces by threads, written as GGUF.

In: a source, the plan of formats, perhaps the importance of each tensor's columns. Out: the file
and a report. In memory at a time: one tensor's blocks and a piece of floats per thread.
Knows nothing of where the plan or the importance come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.convert.format_plan import SourceTensor
from headrace.core.errors import ModelFileError
from headrace.core.frozen import frozen
from headrace.quant.format import FORMATS, QuantFormat
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.quantize import quantize
from headrace.quant.scale_search import Floats, search
from headrace.weights.gguf_writer import GgufWriter, KeyValue, TensorPlan

Method = Literal["nearest", "search", "gptq"]
Progress = Callable[[int, int, str], None]
"""Called with weights done, weights in all, and the tensor that is next."""

Measure = Callable[[Path], Mapping[str, KeyValue]]
"""Called with the file when its tensors are in it; gives values of keys it has room for."""

_PIECE_WEIGHTS = 1 << 20
# Source: llama.cpp, include/llama.h, enum llama_ftype; what most of a file's weights are.
_FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10,
    "q3_k": 12, "q4_k": 15, "q5_k": 17, "q6_k": 18, "iq4_nl": 25, "bf16": 32,
}  # fmt: skip


_OF_OTHER_WEIGHTS = "headrace.canary."  # what the source says of its text


class Source(Protocol):
    """A model that is read tensor by tensor, under GGUF names."""

    @property
    def tensors(self) -> Sequence[SourceTensor]: ...

    def keys(self) -> Mapping[str, KeyValue]:
        """Metadata of the new file."""
        ...

    def tensor(self, name: str) -> QuantTensor: ...

    def release(self) -> None:
        """Give mapped pages back to the system."""
        ...


@frozen
class Rounding:
    """How tensors are rounded.

    Fields:
        formats: of each tensor, by GGUF name.
        method: "nearest" covers each group's range, "search" looks for the best scales, "gptq" says
            how `rounded` was made and searches for the rest.
        importance: by GGUF name, mean square of what each column multiplies; for the search.
        rounded: tensors that are in their format already, by GGUF name.
        facts: more metadata of the new file, under headrace.quantize.
        canary: keys of the canary, with room for what `quantize_file` measures.
    """

    formats: Mapping[str, str]
    method: Method = "search"
    importance: Mapping[str, Floats] = field(default_factory=dict)
    rounded: Mapping[str, QuantTensor] = field(default_factory=dict)
    facts: Mapping[str, KeyValue] = field(default_factory=dict)
    canary: Mapping[str, KeyValue] = field(default_factory=dict)


@frozen
class Written:
    """The new file. `num_weights` and `num_bytes` are of its tensors, by format."""

    path: Path
    num_weights: Mapping[str, int]
    num_bytes: Mapping[str, int]

    @property
    def bits_per_weight(self) -> float:
        return 8 * sum(self.num_bytes.values()) / sum(self.num_weights.values())


def quantize_file(
    source: Source,
    rounding: Rounding,
    path: Path,
    num_threads: int = 1,
    progress: Progress | None = None,
    measure: Measure | None = None,
) -> Written:
    """Write the quantized model. Raises: ModelFileError for weights that cannot be rounded."""
    plans = [
        TensorPlan(tensor.name, FORMATS[rounding.formats[tensor.name]], tensor.shape)
        for tensor in source.tensors
    ]
    total = sum(math.prod(plan.shape) for plan in plans)
    done = 0
    keys = _keys(source, rounding, plans)
    with ThreadPoolExecutor(num_threads) as pool, GgufWriter(path, keys, plans) as writer:
        for plan in plans:
            if progress is not None:
                progress(done, total, plan.name)
            done_before = rounding.rounded.get(plan.name)
            writer.write(done_before or _round_tensor(source, plan, rounding, pool))
            done += math.prod(plan.shape)
            source.release()
        if measure is not None:
            writer.replace_keys({**keys, **measure(writer.readable())})
    return Written(path, _add_up(plans, _weights), _add_up(plans, lambda plan: plan.num_bytes))


def _round(x: Floats, format_name: str, method: Method, importance: Floats | None) -> QuantTensor:
    if method == "nearest":
        return quantize(x, format_name)
    return search(x, format_name, importance)


def _weights(plan: TensorPlan) -> int:
    return math.prod(plan.shape)


def _add_up(plans: Sequence[TensorPlan], size: Callable[[TensorPlan], int]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for plan in plans:
        sums[plan.format.name] = sums.get(plan.format.name, 0) + size(plan)
    return sums


def _keys(
    source: Source, rounding: Rounding, plans: Sequence[TensorPlan]
) -> Mapping[str, KeyValue]:
    weights = _add_up(plans, _weights)
    most = max(weights, key=lambda name: weights[name])
    ours: dict[str, KeyValue] = {
        "general.file_type": _FILE_TYPES[most],
        "general.quantization_version": 2,
        "headrace.quantize.method": rounding.method,
    }
    facts = {f"headrace.quantize.{name}": value for name, value in rounding.facts.items()}
    kept = {k: v for k, v in source.keys().items() if not k.startswith(_OF_OTHER_WEIGHTS)}
    return {**kept, **ours, **facts, **rounding.canary}


def _round_tensor(
    source: Source, plan: TensorPlan, rounding: Rounding, pool: ThreadPoolExecutor
) -> QuantTensor:
    tensor = source.tensor(plan.name)
    if tensor.format == plan.format:
        return tensor
    importance = rounding.importance.get(plan.name)

    def round_rows(rows: Floats) -> QuantTensor:
        return _round(rows, plan.format.name, rounding.method, importance)

    return round_pieces(plan.name, tensor, plan.format, round_rows, pool)


def round_pieces(
    name: str,
    tensor: QuantTensor,
    fmt: QuantFormat,
    round_rows: Callable[[Floats], QuantTensor],
    pool: ThreadPoolExecutor,
) -> QuantTensor:
    """A tensor in another format, its rows rounded in pieces beside each other.

    Raises: ModelFileError for weights that cannot be rounded.
    """
    num_rows, width = tensor.num_rows, tensor.shape[-1]
    flat = QuantTensor(tensor.format, (num_rows, width), tensor.data)
    step = max(1, _PIECE_WEIGHTS // width)

    def round_piece(start: int) -> NDArray[np.uint8]:
        rows = flat.rows(start, min(start + step, num_rows))
        return round_rows(rows.dequantize()).data

    try:
        pieces = list(pool.map(round_piece, range(0, num_rows, step)))
    except ValueError as error:
        raise ModelFileError(f"{name} cannot be stored as {fmt.name}: {error}.") from error
    return QuantTensor(fmt, tensor.shape, np.concatenate(pieces))
