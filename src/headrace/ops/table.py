"""Device name -> implementation of Ops. A device is a row here.

The implementations are named by text and imported when chosen, so that the reference runs without
the C++ extension and the start costs what is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from headrace.core.errors import ConfigError
from headrace.core.machine import Roof
from headrace.ops.protocol import Ops

IMPLEMENTATIONS: dict[str, str] = {
    "cpu": "headrace.ops.cpu.cpu_ops:make_ops",
    "reference": "headrace.ops.reference.reference_ops:make_ops",
}
_PROBE = "headrace.ops.cpu.roof:probe_roof"


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


def probe_roof(num_threads: int | None = None) -> Roof:
    """Measure what this machine can read and multiply now. Takes about a second.

    Raises: ConfigError without the C++ extension.
    """
    roof: Roof = _load(_PROBE)(num_threads)
    return roof


def _load(path: str) -> Callable[..., Any]:
    module, name = path.split(":")
    try:
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
    except ImportError as error:
        raise ConfigError(
            "device",
            "cpu",
            "reference",
            f"The C++ extension cannot be loaded ({error}); build it with `make build`.",
        ) from error
