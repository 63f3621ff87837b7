"""What computes each op family on the reference device: numpy, all of them."""

from __future__ import annotations

from headrace.ops.kernel_note import KernelNote

_FAMILIES = (
    "embed",
    "norm",
    "matmul",
    "rope",
    "store_kv",
    "attention",
    "attention_packed",
    "activation",
    "sampling",
)


def kernels(isa: str | None) -> tuple[KernelNote, ...]:
    """A note per family; the reference has no instruction sets."""
    return tuple(KernelNote(family, "numpy float32", "device reference") for family in _FAMILIES)
