"""A mix of formats under a budget of bits: precision goes where rounding hurts most per byte.

In: a source, the importance of its columns where it is known, the budget. Out: the format of each
tensor. Each tensor begins with 4 bits; the step up that takes most noise off a product per byte is
bought again and again until the budget is spent. Noise is the weighted error of a tensor over its
size, measured on some of its rows; all tensors count alike. Writes nothing.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headrace.convert.format_plan import SourceTensor, fitting, is_rounded
from headrace.convert.quantize_file import Source
from headrace.core.errors import InvalidParameter, ModelFileError
from headrace.quant.format import FORMATS
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.scale_search import Floats, search, weighted_error

_LADDER = ("q4_k", "q5_k", "q6_k", "q8_0")
_NARROW_LADDER = ("q4_0", "q5_0", "q8_0")  # for rows that do not fill blocks of 256
_SAMPLED_ROWS = 64


@dataclass(frozen=True, slots=True)
class _Step:
    """A format a tensor may have. Units: bytes of the whole tensor."""

    format_name: str
    num_bytes: int
    noise: float


def plan_mixed(
    source: Source, bits_per_weight: float, importance: Mapping[str, Floats]
) -> dict[str, str]:
    """The format of each tensor, of at most this many bits per weight in all.

    Raises: InvalidParameter for a budget that 4 bits everywhere exceed; ModelFileError for weights
    that cannot be rounded.
    """
    ladders = {t.name: _ladder(source, t, importance.get(t.name)) for t in source.tensors}
    budget = bits_per_weight / 8 * sum(math.prod(tensor.shape) for tensor in source.tensors)
    spent = sum(ladder[0].num_bytes for ladder in ladders.values())
    if not spent <= budget:  # nor is a budget that is not a number
        least = 8 * spent / sum(math.prod(tensor.shape) for tensor in source.tensors)
        raise InvalidParameter("--bits", bits_per_weight, f"at least {least:.2f} for this model")
    chosen = _buy(ladders, budget - spent)
    return {name: ladders[name][place].format_name for name, place in chosen.items()}


def _buy(ladders: Mapping[str, Sequence[_Step]], left: float) -> dict[str, int]:
    """Which step of its ladder each tensor ends on."""
    chosen = dict.fromkeys(ladders, 0)
    offers = [offer for name in ladders for offer in _offers(name, ladders[name], 0)]
    heapq.heapify(offers)
    while offers:
        _, name, price = heapq.heappop(offers)
        if price > left:
            continue  # a smaller tensor may still fit
        left -= price
        chosen[name] += 1
        for offer in _offers(name, ladders[name], chosen[name]):
            heapq.heappush(offers, offer)
    return chosen


def _offers(name: str, ladder: Sequence[_Step], place: int) -> list[tuple[float, str, int]]:
    """The next step up: what it gains per byte, negated, and its price."""
    if place + 1 == len(ladder):
        return []
    now, after = ladder[place], ladder[place + 1]
    price = after.num_bytes - now.num_bytes
    return [((after.noise - now.noise) / price, name, price)]


def _ladder(source: Source, tensor: SourceTensor, importance: Floats | None) -> list[_Step]:
    """Formats from small to large; one that the source has already is the last, without noise."""
    stored = source.tensor(tensor.name)
    end = _Step(tensor.format.name, stored.nbytes, 0.0)
    if not is_rounded(tensor):
        return [end]
    width = tensor.shape[-1]
    names = _LADDER if width % 256 == 0 else _NARROW_LADDER
    x = _some_rows(stored)
    steps: list[_Step] = []
    for name in dict.fromkeys(fitting(name, width) for name in names):
        fmt = FORMATS[name]
        if fmt.bits_per_weight >= tensor.format.bits_per_weight:
            break
        try:
            rounded = search(x, name, importance)
        except ValueError as error:
            raise ModelFileError(f"{tensor.name} cannot be stored as {name}: {error}.") from error
        noise = weighted_error(x, rounded, importance)
        steps.append(_Step(name, stored.num_rows * fmt.row_bytes(width), noise))
    source.release()
    is_float = tensor.format.bits_per_weight >= 16
    return steps if steps and is_float else [*steps, end]


def _some_rows(tensor: QuantTensor) -> Floats:
    """Rows spread over the tensor. Shapes: [_SAMPLED_ROWS or fewer, in]."""
    num_rows = tensor.num_rows
    wanted = np.linspace(0, num_rows - 1, min(num_rows, _SAMPLED_ROWS)).astype(np.int64)
    return tensor.dequantize_rows(wanted)
