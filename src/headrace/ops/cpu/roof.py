"""Measure the machine's roof with the kernels' own instructions: DRAM reads and int8 products."""

from __future__ import annotations

import os

from headrace import _cpu
from headrace.core.machine import Roof
from headrace.ops.cpu.isa import choose_isa

# Well above the last-level cache of a server, so that memory is read and not the cache.
_READ_BYTES = 1 << 30
_READ_ROUNDS = 3
_PEAK_SECONDS = 0.05
_PEAK_ROUNDS = 3


def probe_roof(num_threads: int | None = None) -> Roof:
    """What all threads together read and multiply now. Takes about a second and 1 GiB."""
    threads = num_threads or len(os.sched_getaffinity(0))
    ops = _cpu.CpuOps(choose_isa(), threads)
    return Roof(
        read_bytes_per_s=_cpu.probe_read_bandwidth(ops, _READ_BYTES, _READ_ROUNDS),
        int8_ops_per_s=_cpu.probe_int8_peak(ops, _PEAK_SECONDS, _PEAK_ROUNDS),
    )
