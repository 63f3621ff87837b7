"""DeviceStep: the arrays of a step on the device, sent with one copy.

In: StepInputs in host memory. Out: views of one int32 tensor, and what the host must know to
choose kernels. Knows nothing of models or kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headrace.core.frozen import frozen
from headrace.ops.step_inputs import Int32, StepInputs

FIELDS = (
    "token_ids",
    "positions",
    "slot_mapping",
    "query_start",
    "seq_lens",
    "block_table",
    "logit_rows",
)

ALIGNMENT = 4
"""Arrays begin at 16 bytes: Triton compiles a kernel anew for a pointer that it finds unaligned."""

_DTYPES = {
    "float32": torch.float32,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint64": torch.int64,
}


@frozen
class DeviceStep:
    """As StepInputs, on the device, views of `flat`.

    `has_decode`: a request has one row; `has_chunks`: a request has more.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    slot_mapping: torch.Tensor
    query_start: torch.Tensor
    seq_lens: torch.Tensor
    block_table: torch.Tensor
    logit_rows: torch.Tensor
    flat: torch.Tensor
    has_decode: bool
    has_chunks: bool


Arrays = Sequence[NDArray[Any]]


def step_arrays(step: StepInputs) -> list[NDArray[Any]]:
    """The arrays in the order of FIELDS."""
    return [getattr(step, name) for name in FIELDS]


def pack_arrays(arrays: Arrays) -> Int32:
    """The bits of all arrays as one, each from a multiple of ALIGNMENT on."""
    parts = []
    for array in arrays:
        part = np.ascontiguousarray(array).reshape(-1).view(np.int32)
        parts += [part, np.zeros(_filling(part.size), np.int32)]
    return np.concatenate(parts)


def view_arrays(flat: torch.Tensor, arrays: Arrays) -> Iterator[torch.Tensor]:
    """What `pack_arrays` made one, as views of it on the device; uint64 as int64."""
    start = 0
    for array in arrays:
        size = array.nbytes // flat.itemsize
        part = flat[start : start + size].view(_DTYPES[array.dtype.name])
        yield part.view(array.shape)
        start += size + _filling(size)


def _filling(size: int) -> int:
    return -size % ALIGNMENT


def pack_step(step: StepInputs) -> Int32:
    """All arrays of a step as one."""
    return pack_arrays(step_arrays(step))


def upload(step: StepInputs, device: torch.device) -> DeviceStep:
    """One copy for all arrays."""
    return view_step(step, to_device(pack_step(step), device))


def view_step(step: StepInputs, flat: torch.Tensor) -> DeviceStep:
    """A step whose arrays lie at the beginning of `flat`."""
    lengths = np.diff(step.query_start)
    return DeviceStep(
        **dict(zip(FIELDS, view_arrays(flat, step_arrays(step)), strict=True)),
        flat=flat,
        has_decode=bool((lengths == 1).any()),
        has_chunks=bool((lengths > 1).any()),
    )


def to_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """A copy on the device; to a GPU through pinned memory, so that the host goes on."""
    tensor = torch.from_numpy(np.array(array, order="C"))
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
