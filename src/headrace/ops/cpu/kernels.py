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
    "avx2": ("matmul_generic", "plain C++ compiled for AVX2"),
    "avx512": ("matmul_vnni", "int8 dot products of AVX512-VNNI"),
    "amx": ("matmul_vnni", "int8 dot products of AVX512-VNNI"),
}
ATTENTION_KERNELS = {
    "generic": ("attention_float", "plain C++; defines the bits"),
    "avx2": ("attention_float", "float vectors of AVX2"),
    "avx512": ("attention_float", "float vectors of AVX-512"),
    "amx": ("attention_tiles", "bf16 tiles of AMX"),
}
_SAME_CODE = "one source, compiled for the tier"


def kernels(isa: str | None) -> tuple[KernelNote, ...]:
    """A note per family. Raises: ConfigError for a tier that cannot run here."""
    tier = choose_isa(isa)
    matmul, why_matmul = MATMUL_KERNELS[tier]
    attention, why_attention = ATTENTION_KERNELS[tier]
    packable = set(_cpu.packable_formats())
    integers = [name for name, row in FORMATS.items() if row.is_quantized and name in packable]
    floats = [name for name, row in FORMATS.items() if not row.is_quantized and name in packable]
    notes = [
        *_embed_notes(tier),
        KernelNote("norm", f"C++ {tier}", _SAME_CODE),
        KernelNote("matmul, " + _listed(integers), f"C++ {tier}: {matmul}", why_matmul),
        KernelNote(
            "matmul, " + _listed(floats), f"C++ {tier}: matmul_float", "weights that are floats"
        ),
    ]
    others = [name for name in FORMATS if name not in packable]
    if others:
        notes.append(
            KernelNote(
                "matmul, " + _listed(others),
                f"C++ {tier}: matmul_float",
                "no integer kernel; converted to float32 when loaded",
            )
        )
    return (
        *notes,
        KernelNote("rope", f"C++ {tier}", _SAME_CODE),
        KernelNote("store_kv", f"C++ {tier}", _SAME_CODE),
        KernelNote("attention", f"C++ {tier}: {attention}", why_attention),
        KernelNote("activation", f"C++ {tier}", _SAME_CODE),
        KernelNote("sampling", f"C++ {tier}", _SAME_CODE),
    )


def _embed_notes(tier: str) -> list[KernelNote]:
    ops = _cpu.CpuOps(tier, 1)
    read = [name for name, row in FORMATS.items() if _cpu.can_embed(ops, row.ggml_type)]
    others = [name for name in FORMATS if name not in read]
    notes = [KernelNote("embed, " + _listed(read), f"C++ {tier}", _SAME_CODE)] if read else []
    if others:
        notes.append(KernelNote("embed, " + _listed(others), "numpy", "no C++ kernel reads these"))
    return notes


def _listed(formats: list[str]) -> str:
    return " ".join(formats)
