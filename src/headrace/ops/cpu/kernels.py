"""Which C++ kernel computes each op family on an ISA tier, and why.

In: a tier. Out: a note per family. What depends on the format of the weights is asked of the
extension itself.
"""

from __future__ import annotations

from headrace import _cpu
from headrace.ops.cpu.isa import choose_isa
from headrace.ops.kernel_note import KernelNote
from headrace.quant.format import FORMATS

# The functions behind the quantized linears and attention, as the tiers' tables name them.
MATMUL_KERNELS = {
    "generic": ("matmul_generic", "plain C++; defines the bits"),
    "avx2": ("matmul_avx2", "int8 multiply-adds of AVX2"),
    "avx512": ("matmul_rows", "int8 dot products of AVX512-VNNI"),
    "avx512bf16": ("matmul_rows", "int8 dot products of AVX512-VNNI"),
    "amx": ("matmul_amx", "int8 tiles of AMX; dot products of AVX512-VNNI for few rows"),
}
ATTENTION_KERNELS = {
    "generic": ("attention_float", "plain C++; defines the bits"),
    "avx2": ("attention_float", "float vectors of AVX2"),
    "avx512": ("attention_float", "float vectors of AVX-512"),
    "avx512bf16": ("attention_pairs", "bf16 dot products of AVX512-BF16"),
    "amx": ("attention_tiles", "bf16 tiles of AMX"),
}
BF16_KERNELS = {
    "avx512bf16": ("matmul_bf16", "bf16 dot products of AVX512-BF16"),
    "amx": ("matmul_bf16", "bf16 tiles of AMX"),
}
"""Tiers that multiply bf16 weights with rows rounded to bf16; the others with float32 rows."""
_SAME_CODE = "one source, compiled for the tier"


def kernels(isa: str | None) -> tuple[KernelNote, ...]:
    """A note per family. Raises: ConfigError for a tier that cannot run here."""
    tier = choose_isa(isa)
    attention, why = ATTENTION_KERNELS[tier]
    shared = {
        family: KernelNote(family, f"C++ {tier}", _SAME_CODE)
        for family in ("norm", "rope", "store_kv", "attention_packed", "activation", "sampling")
    }
    return (
        *_embed_notes(tier),
        shared["norm"],
        *_matmul_notes(tier),
        shared["rope"],
        shared["store_kv"],
        KernelNote("attention", f"C++ {tier}: {attention}", why),
        shared["attention_packed"],
        shared["activation"],
        shared["sampling"],
    )


def _embed_notes(tier: str) -> list[KernelNote]:
    ops = _cpu.CpuOps(tier, 1)
    read = tuple(name for name, row in FORMATS.items() if _cpu.can_embed(ops, row.ggml_type))
    others = tuple(name for name in FORMATS if name not in read)
    notes = (
        KernelNote("embed", f"C++ {tier}", _SAME_CODE, read),
        KernelNote("embed", "numpy", "no C++ kernel reads these", others),
    )
    return [note for note in notes if note.formats]


def _matmul_notes(tier: str) -> list[KernelNote]:
    quantized, why = MATMUL_KERNELS[tier]
    packable = set(_cpu.packable_formats())
    integers = tuple(name for name, row in FORMATS.items() if row.is_quantized and name in packable)
    bf16, why_bf16 = BF16_KERNELS.get(tier, ("", ""))
    rounded = ("bf16",) if bf16 else ()
    floats = tuple(
        name for name in FORMATS if name in packable and name not in (*integers, *rounded)
    )
    others = tuple(name for name in FORMATS if name not in packable)
    as_floats = f"C++ {tier}: matmul_float"
    notes = (
        KernelNote("matmul", f"C++ {tier}: {quantized}", why, integers),
        KernelNote("matmul", f"C++ {tier}: {bf16}", why_bf16, rounded),
        KernelNote("matmul", as_floats, "weights that are floats", floats),
        KernelNote("matmul", as_floats, "no integer kernel; float32 once loaded", others),
    )
    return [note for note in notes if note.formats]
