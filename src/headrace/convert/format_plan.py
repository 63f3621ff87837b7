"""Which format each tensor of a model gets when the model is quantized to one format.

In: names, shapes and formats of the source's tensors. Out: the format of each in the new file.
Owns what is never rounded (norms, biases, routers), what is rounded more finely (embeddings and
the head), and what takes the place of a format whose blocks a tensor's rows do not fill.
Knows nothing of arrays.
Source: llama.cpp, src/llama-quant.cpp, llama_tensor_get_type (names, fallbacks).
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.core.errors import InvalidParameter
from headrace.core.frozen import frozen
from headrace.quant.format import FORMATS, QuantFormat

FLOAT_TARGETS: tuple[str, ...] = ("f16", "bf16", "f32")
TARGETS: tuple[str, ...] = (*(n for n in FORMATS if n not in FLOAT_TARGETS), *FLOAT_TARGETS)
"""The formats a model can be written in."""

# Where rows do not fill blocks of 256: the next format of 32 with at least its precision.
_NARROW = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
_UNBLOCKED = "f16"
_OUTER = "q6_k"
_OUTER_NAMES = ("token_embd.weight", "output.weight")
# Small, and an error in them moves everything: routers, state-space filters, positions.
_KEPT_PARTS = ("_norm", "ffn_gate_inp", "ssm_", "position_embd", "token_types", "rope_f")


@frozen
class SourceTensor:
    """A tensor of the source, under its GGUF name; numpy-order shape."""

    name: str
    format: QuantFormat
    shape: tuple[int, ...]


def is_rounded(tensor: SourceTensor) -> bool:
    """Whether the tensor is a matrix that quantizing is meant for."""
    is_matrix = len(tensor.shape) >= 2 and tensor.name.endswith(".weight")
    return is_matrix and not any(part in tensor.name for part in _KEPT_PARTS)


def is_outer(tensor: SourceTensor) -> bool:
    """Whether it is the embedding table or the head, which every token passes unaveraged."""
    return tensor.name in _OUTER_NAMES


def fitting(format_name: str, width: int) -> str:
    """The format itself, or the nearest finer one whose blocks fill rows of `width`."""
    name = format_name
    if width % FORMATS[name].block_size and name in _NARROW:
        name = _NARROW[name]
    return name if width % FORMATS[name].block_size == 0 else _UNBLOCKED


def plan_formats(
    tensors: Sequence[SourceTensor], to: str, outer: str | None = None
) -> dict[str, str]:
    """The format of each tensor. One that has no more bits than its target stays as it is.

    To a float target go all matrices that are floats, wider or narrower. `outer`: the target of
    the embedding table and the head, instead of at least q6_k.
    Raises: InvalidParameter for a target that is none.
    """
    check_target(to)
    if outer is None:
        outer = max(to, _OUTER, key=lambda name: FORMATS[name].bits_per_weight)
    check_target(outer, "head")
    wanted = {}
    for tensor in tensors:
        target = outer if is_outer(tensor) else to
        wanted[tensor.name] = _target_of(tensor, target)
    return wanted


def check_target(to: str, field: str = "to") -> None:
    """Raises: InvalidParameter."""
    if to not in TARGETS:
        raise InvalidParameter(field, to, ", ".join(TARGETS))


def _target_of(tensor: SourceTensor, target: str) -> str:
    if not is_rounded(tensor):
        return tensor.format.name
    if not FORMATS[target].is_quantized:
        return tensor.format.name if tensor.format.is_quantized else target
    name = fitting(target, tensor.shape[-1])
    is_smaller = FORMATS[name].bits_per_weight < tensor.format.bits_per_weight
    return name if is_smaller else tensor.format.name
