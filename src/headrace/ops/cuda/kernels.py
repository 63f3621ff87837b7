"""Which code computes each op family on a GPU, and why. For people; nothing is decided by it."""

from __future__ import annotations

import torch

from headrace.ops.cuda import packed_matmul
from headrace.ops.cuda.device import DeviceFacts, open_device
from headrace.ops.cuda.float8 import FIRST_ARCHITECTURE, has_products
from headrace.ops.cuda.gemv import MAX_ROWS
from headrace.ops.kernel_note import KernelNote
from headrace.quant.format import F8_E4M3, FORMATS


def kernels(isa: str | None) -> tuple[KernelNote, ...]:
    """A note per family. Raises: ConfigError without a usable GPU."""
    device = torch.device("cuda")
    found = open_device(device)
    return notes(found, found.architecture >= FIRST_ARCHITECTURE and has_products(device))


def notes(found: DeviceFacts, has_float8: bool) -> tuple[KernelNote, ...]:
    """What runs on this GPU."""
    place = f"Triton sm_{found.architecture}"
    floats = tuple(name for name, row in FORMATS.items() if not row.is_quantized)
    integers = tuple(name for name, row in FORMATS.items() if row.is_quantized)
    few, many = f"up to {MAX_ROWS} rows", f"more than {MAX_ROWS} rows"
    some, most = f"up to {packed_matmul.MAX_ROWS} rows", f"more than {packed_matmul.MAX_ROWS} rows"
    wide8 = KernelNote("matmul", f"{place}: quantize_rows, then _scaled_mm", many, (F8_E4M3.name,))
    if not has_float8:
        wide8 = KernelNote("matmul", f"{place}: float8_matmul, then cuBLAS", many, (F8_E4M3.name,))
    gpu = f"{found.name}, driver {found.driver}"
    return (
        KernelNote("embed", f"{place}: dequantize", gpu, integers),
        KernelNote("embed", "torch index_select", gpu, floats),
        KernelNote("norm", f"{place}: rms_norm", "one program per row"),
        KernelNote("matmul", f"{place}: float_gemv", few, (*floats, F8_E4M3.name)),
        KernelNote("matmul", f"{place}: integer_gemv", few, integers),
        KernelNote("matmul", "cuBLAS", many, floats),
        wide8,
        KernelNote("matmul", f"{place}: integer_matmul", some, integers),
        KernelNote("matmul", f"{place}: dequantize, then cuBLAS", most, integers),
        KernelNote("rope", f"{place}: rope", "norms of q and k inside"),
        KernelNote("store_kv", f"{place}: store_kv", "bf16, int8 or fp8"),
        KernelNote("attention", f"{place}: attention, combine", "split over the cache for decode"),
        KernelNote("attention_packed", "torch scaled_dot_product_attention", "encoders"),
        KernelNote("activation", f"{place}: float_gemv, integer_gemv", f"inside them, {few}"),
        KernelNote("activation", f"{place}: gate", many),
        KernelNote("sampling", f"{place}: sample, logprobs", "one program per row, nothing sorted"),
    )
