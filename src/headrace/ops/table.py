"""Device name -> implementation of Ops. A device is a row here.

The implementations are named by text and imported when chosen, so that the reference runs without
the C++ extension and the start costs what is used.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Sequence
from typing import Any

from headrace.core.errors import ConfigError
from headrace.core.extras import install_command
from headrace.core.machine import Roof
from headrace.ops.kernel_note import IsaStatus, KernelNote
from headrace.ops.protocol import Ops
from headrace.ops.rank_group import RankGroup

IMPLEMENTATIONS: dict[str, str] = {
    "cpu": "headrace.ops.cpu.cpu_ops:make_ops",
    "cuda": "headrace.ops.cuda.cuda_ops:make_ops",
    "reference": "headrace.ops.reference.reference_ops:make_ops",
}
RANKED: dict[str, str] = {
    "cuda": "headrace.ops.cuda.rank_ops:make_rank_ops",
    "reference": "headrace.ops.reference.host_group:make_rank_ops",
}
"""Devices over which a model can be divided."""
_CUDA = "headrace.ops.cuda"
_PROBE = "headrace.ops.cpu.roof:probe_roof"
_GPU = "headrace.ops.cuda.device:describe"
_WHY_NO_GPU = "headrace.ops.cuda.device:why_unusable"
_ISAS = "headrace.ops.cpu.isa:all_isas"
_CHOOSE_ISA = "headrace.ops.cpu.isa:choose_isa"
_KERNELS: dict[str, str] = {
    "cpu": "headrace.ops.cpu.kernels:kernels",
    "cuda": "headrace.ops.cuda.kernels:kernels",
    "reference": "headrace.ops.reference.kernels:kernels",
}


def make_ops(device: str, isa: str | None = None, num_threads: int | None = None) -> Ops:
    """Build the implementation of a device.

    Raises: ConfigError for an unknown device, a missing extension, or an instruction set that
    cannot run here.
    """
    path = IMPLEMENTATIONS.get(device)
    if path is None:
        raise ConfigError("device", device, ", ".join(IMPLEMENTATIONS))
    ops: Ops = _load(path)(isa=isa, num_threads=num_threads or 1)
    return ops


def make_rank_ops(device: str, rank: int, num_ranks: int) -> tuple[Ops, RankGroup]:
    """One rank's ops, and the group that has to be joined before the first step.

    Raises: ConfigError for a device that has no ranks, or not so many.
    """
    path = RANKED.get(device)
    if path is None:
        raise ConfigError("engine.tensor_parallel_size", num_ranks, f"1 on the device {device}")
    return _load(path)(rank, num_ranks)  # type: ignore[no-any-return]


def probe_roof(num_threads: int | None = None) -> Roof:
    """Measure what this machine can read and multiply now. Takes about a second.

    Raises: ConfigError without the C++ extension.
    """
    roof: Roof = _load(_PROBE)(num_threads)
    return roof


def isa_tiers() -> Sequence[IsaStatus]:
    """Every ISA tier of the C++ extension, lowest first.

    Raises: ConfigError without the C++ extension.
    """
    return _load(_ISAS)()  # type: ignore[no-any-return]


def chosen_isa(wanted: str | None) -> str:
    """The tier that kernels will use when `wanted` is asked for, None being the best.

    Raises: ConfigError for a tier that cannot run here, or without the C++ extension.
    """
    return _load(_CHOOSE_ISA)(wanted)  # type: ignore[no-any-return]


def describe_gpu(device: str) -> str | None:
    """The GPU that kernels run on, as one line; None for a device that uses none.

    Raises: ConfigError with what is missing.
    """
    return _load(_GPU)() if device == "cuda" else None


def describe_kernels(device: str, isa: str | None = None) -> Sequence[KernelNote]:
    """Which code computes each op family on a device, and why.

    Raises: ConfigError, as make_ops does.
    """
    path = _KERNELS.get(device)
    if path is None:
        raise ConfigError("device", device, ", ".join(IMPLEMENTATIONS))
    return _load(path)(isa)  # type: ignore[no-any-return]


def _load(path: str) -> Callable[..., Any]:
    module, name = path.split(":")
    try:
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
    except ImportError as error:
        if module.startswith(_CUDA):
            hint = _why_no_gpu(error)
            raise ConfigError("engine.device", "cuda", "cpu, reference", hint) from error
        raise ConfigError(
            "device",
            "cpu",
            "reference",
            f"The C++ extension cannot be loaded ({error}); build it with `make build`.",
        ) from error


def _why_no_gpu(error: ImportError) -> str:
    """One reason, whichever module was asked for: no driver goes before no Triton."""
    module, name = _WHY_NO_GPU.split(":")
    reason: str | None = None
    # Without torch itself that one cannot be loaded either.
    with contextlib.suppress(ImportError):
        reason = getattr(importlib.import_module(module), name)()
    both = f"torch or Triton cannot be loaded ({error}); `{install_command('cuda')}` brings both."
    return reason or both
