"""Rounds each matrix of a model when a text reaches it, by what the matrix then multiplies.

In: an open model, what is to be written, its tokens of a text, a device. Out: rounded tensors under
the names of the file. The model runs one step over the whole text, as windows that do not see each
other, so every product meets all its inputs at once: their second moments are taken, its matrices
are rounded, and both are let go before the next. In memory: the model in the device's form, the
rounded matrices, the activations of one product, the moments of one matrix.
Source: arXiv 2210.17323 (GPTQ), with the inputs of the unrounded model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from headrace.convert.calibration import linears_of, open_model, run_windows
from headrace.convert.observed_ops import ObservedOps
from headrace.convert.quantize_file import Source, round_pieces
from headrace.ops.protocol import Array, Ops, PackedLinear
from headrace.quant.error_feedback import ErrorFeedback
from headrace.quant.format import FORMATS
from headrace.quant.quant_tensor import QuantTensor
from headrace.weights.names import sources
from headrace.weights.weight_reader import WeightReader

_ROWS_AT_ONCE = 1024
Report = Callable[[int, int, str], None]
"""Called with matrices done, matrices in all, and the name of the next."""


@dataclass(slots=True)
class _Work:
    """The one writer of `rounded`. `names`: tensors of the file by id of their packed matrix."""

    source: Source
    formats: Mapping[str, str]
    names: Mapping[int, Sequence[str]]
    pool: ThreadPoolExecutor
    report: Report | None
    rounded: dict[str, QuantTensor] = field(default_factory=dict)


class _RoundingOps(ObservedOps):
    """Ops around Ops; the first inputs of a matrix round it."""

    def __init__(self, inner: Ops, work: _Work) -> None:
        super().__init__(inner)
        self._work = work

    def observe(self, x: Array, weight: PackedLinear) -> None:
        names = self._work.names.get(id(weight), ())
        if names:
            _round_all(self._work, names, ErrorFeedback(moments(x), len(x)))


def round_by_text(
    reader: WeightReader,
    source: Source,
    formats: Mapping[str, str],
    token_ids: Sequence[int],
    ops: Ops,
    num_threads: int = 1,
    report: Report | None = None,
) -> dict[str, QuantTensor]:
    """Round the matrices of all layers that are to change their format; experts are left out.

    Raises: ModelFileError for weights that cannot be rounded; what loading raises.
    """
    model = open_model(reader, ops)
    metadata = reader.metadata if reader.kind == "gguf" else source.keys()
    places = sources(reader.architecture, "gguf", model.config.num_layers, metadata)
    stored = {tensor.name: tensor.format.name for tensor in source.tensors}
    names = {}
    for weight, ours in linears_of(model):
        of_file = dict.fromkeys(places[name].name for name in ours)  # a fused tensor is one
        names[id(weight)] = [name for name in of_file if _is_rounded(stored[name], formats[name])]
    with ThreadPoolExecutor(num_threads) as pool:
        work = _Work(source, formats, names, pool, report)
        run_windows(model.over(cast(Ops, _RoundingOps(ops, work))), token_ids)
    return work.rounded


def moments(x: Array) -> NDArray[np.float64]:
    """The mean of x x^T over rows. Shapes: x [T, in] -> [in, in]."""
    found = np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, len(x), _ROWS_AT_ONCE):
        rows = x[start : start + _ROWS_AT_ONCE]
        found += rows.T @ rows
    found /= len(x)
    return found


def _is_rounded(stored: str, wanted: str) -> bool:
    return stored != wanted and FORMATS[wanted].is_quantized


def _round_all(work: _Work, names: Sequence[str], feedback: ErrorFeedback) -> None:
    """Mutates: work.rounded."""
    for name in names:
        if work.report is not None:
            work.report(len(work.rounded), sum(map(len, work.names.values())), name)
        format_name = work.formats[name]
        work.rounded[name] = round_pieces(
            name,
            work.source.tensor(name),
            FORMATS[format_name],
            lambda rows: feedback.round(rows, format_name),  # noqa: B023 - called before the next
            work.pool,
        )
        work.source.release()
