"""A mix of formats under a budget of bits: precision goes where rounding hurts most per byte.

In: a source, the importance of its columns where it is known, the budget. Out: the format of each
tensor. Each tensor begins with 4 bits; the step up that takes most noise off a product per byte is
bought again and again until the budget is spent. Noise is the weighted error of a tensor over its
size, measured on some of its rows; all tensors count alike. Writes nothing.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from headrace.convert.format_plan import SourceTensor, fitting, is_rounded
from headrace.convert.quantize_file import Source
from headrace.core.errors import InvalidParameter, ModelFileError
from headrace.core.frozen import frozen
from headrace.quant.format import FORMATS, QuantFormat
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.scale_search import Floats, search, weighted_error

_LADDER = ("q4_k", "q5_k", "q6_k", "q8_0")
_NARROW_LADDER = ("q4_0", "q5_0", "q8_0")  # for rows that do not fill blocks of 256
_SAMPLED_ROWS = 64


@frozen
class _Step:
    """A format a tensor may have. Units: bytes of the whole tensor."""

    format_name: str
    num_bytes: int
    noise: float


def plan_mixed(
    source: Source, bits_per_weight: float, importance: Mapping[str, Floats]
) -> dict[str, str]:
    """The format of each tensor, of at most this many bits per weight in all.

    Raises: InvalidParameter as check_budget; ModelFileError for weights that cannot be rounded.
    """
    check_budget(source.tensors, bits_per_weight)
    ladders = {t.name: _ladder(source, t, importance.get(t.name)) for t in source.tensors}
    budget = bits_per_weight / 8 * sum(math.prod(tensor.shape) for tensor in source.tensors)
    spent = sum(ladder[0].num_bytes for ladder in ladders.values())
    chosen = _buy(ladders, budget - spent)
    return {name: ladders[name][place].format_name for name, place in chosen.items()}


def check_budget(tensors: Sequence[SourceTensor], bits_per_weight: float) -> None:
    """See that the ladders begin below a budget and reach it, without a look at the weights.

    Raises: InvalidParameter for what 4 bits everywhere exceed, or what no mix can use.
    """
    ladders = [(tensor, _formats(tensor)) for tensor in tensors]
    num_weights = sum(math.prod(tensor.shape) for tensor in tensors)
    least, most = (
        8 * sum(_num_bytes(tensor, formats[end]) for tensor, formats in ladders) / num_weights
        for end in (0, -1)
    )
    shown = math.ceil(100 * most) / 100  # what the message names is allowed
    if not least <= bits_per_weight <= shown:  # nor is a budget that is not a number
        allowed = f"at least {math.ceil(100 * least) / 100:.2f} and at most {shown:.2f}"
        hint = "A mix ends at q8_0, or at what the source has." if bits_per_weight > shown else ""
        raise InvalidParameter("--bits", bits_per_weight, f"{allowed} for this model", hint)


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
    """What each of a tensor's formats takes and costs; the one that it has is without noise."""
    formats = _formats(tensor)
    if formats == [tensor.format]:
        return [_Step(tensor.format.name, _num_bytes(tensor, tensor.format), 0.0)]
    x = _some_rows(source.tensor(tensor.name))
    steps: list[_Step] = []
    for fmt in formats:
        noise = 0.0 if fmt == tensor.format else _noise(x, tensor.name, fmt.name, importance)
        steps.append(_Step(fmt.name, _num_bytes(tensor, fmt), noise))
    source.release()
    return steps


def _formats(tensor: SourceTensor) -> list[QuantFormat]:
    """From small to large; what the source has is the last, but for floats that can be rounded."""
    if not is_rounded(tensor):
        return [tensor.format]
    width, bits = tensor.shape[-1], tensor.format.bits_per_weight
    names = _LADDER if width % 256 == 0 else _NARROW_LADDER
    finer = (FORMATS[name] for name in dict.fromkeys(fitting(name, width) for name in names))
    smaller = list(itertools.takewhile(lambda fmt: fmt.bits_per_weight < bits, finer))
    return smaller if smaller and bits >= 16 else [*smaller, tensor.format]


def _num_bytes(tensor: SourceTensor, fmt: QuantFormat) -> int:
    return math.prod(tensor.shape[:-1]) * fmt.row_bytes(tensor.shape[-1])


def _noise(x: Floats, tensor: str, format_name: str, importance: Floats | None) -> float:
    try:
        rounded = search(x, format_name, importance)
    except ValueError as error:
        raise ModelFileError(f"{tensor} cannot be stored as {format_name}: {error}.") from error
    return weighted_error(x, rounded, importance)


def _some_rows(tensor: QuantTensor) -> Floats:
    """Rows spread over the tensor. Shapes: [_SAMPLED_ROWS or fewer, in]."""
    num_rows = tensor.num_rows
    wanted = np.linspace(0, num_rows - 1, min(num_rows, _SAMPLED_ROWS)).astype(np.int64)
    return tensor.dequantize_rows(wanted)
