"""Which instruction sets the C++ kernels can use here; tests of others are skipped."""

from __future__ import annotations

import importlib
import importlib.util

import pytest


def supported_isas() -> tuple[str, ...]:
    """Lowest first; none without the extension."""
    if importlib.util.find_spec("headrace._cpu") is None:
        return ()
    names: tuple[str, ...] = importlib.import_module("headrace.ops.cpu.isa").supported_isas()
    return names


def require_isa(isa: str) -> None:
    """Skip where the kernels of this instruction set cannot run."""
    supported = supported_isas()
    if not supported:
        pytest.skip("the C++ extension is not built")
    if isa not in supported:
        pytest.skip(f"this CPU has no {isa}")
