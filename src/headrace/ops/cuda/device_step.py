"""DeviceStep: the arrays of a step on the device, sent with one copy.

In: StepInputs in host memory. Out: views of one int32 tensor, and what the host must know to
choose kernels. Knows nothing of models or kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

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


@dataclass(frozen=True, slots=True)
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


def pack_step(step: StepInputs) -> Int32:
    """All arrays in the order of FIELDS, each from a multiple of ALIGNMENT on."""
    parts = []
    for name in FIELDS:
        part = getattr(step, name).reshape(-1)
        parts += [part, np.zeros(_filling(part.size), np.int32)]
    return np.concatenate(parts, dtype=np.int32)


def _filling(size: int) -> int:
    return -size % ALIGNMENT


def upload(step: StepInputs, device: torch.device) -> DeviceStep:
    """One copy for all arrays."""
    flat = to_device(pack_step(step), device)
    tensors = {}
    start = 0
    for name in FIELDS:
        part = getattr(step, name)
        tensors[name] = flat[start : start + part.size].view(part.shape)
        start += part.size + _filling(part.size)
    lengths = np.diff(step.query_start)
    return DeviceStep(
        **tensors,
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
