"""Finds out what this machine has: cores and memory, within affinity and container limits.

In: the kernel's files under /proc and /sys, by way of a root folder that tests can replace. Out: a
`core.machine.Machine`. Decides nothing.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Set
from pathlib import Path

from headrace.core.machine import Machine


def detect_machine(root: Path = Path("/")) -> Machine:
    """Read the machine. What cannot be read falls back to what `os` knows.

    Source: cgroup v2 `memory.max`, `memory.current` and `cpu.max` (kernel admin guide); proc(5).
    """
    cpus = _usable_cpus()
    quotas = [quota for folder in _cgroups(root) if (quota := _cgroup_cpus(folder))]
    num_cpus = min(len(cpus), *quotas) if quotas else len(cpus)
    num_cores = min(_physical_cores(root, cpus), num_cpus)
    total_bytes, available_bytes = _memory(root)
    for folder in _cgroups(root):
        limit_bytes, used_bytes = _cgroup_memory(folder)
        if limit_bytes is not None:
            total_bytes = min(total_bytes, limit_bytes)
            available_bytes = min(available_bytes, max(0, limit_bytes - used_bytes))
    return Machine(
        num_cores=num_cores,
        num_cpus=num_cpus,
        memory_total_bytes=total_bytes,
        memory_available_bytes=available_bytes,
        cpu_model=_cpu_model(root),
    )


def _cpu_model(root: Path) -> str:
    """The name of the CPU, as its maker writes it."""
    for line in (_read(root / "proc/cpuinfo") or "").splitlines():
        name, _, text = line.partition(":")
        if name.strip() == "model name" and text.strip():
            return text.strip()
    return platform.processor() or platform.machine() or "unknown"


def _usable_cpus() -> Set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _physical_cores(root: Path, cpus: Set[int]) -> int:
    """Count the cores behind the usable hardware threads: siblings share one list."""
    cores = set()
    for cpu in cpus:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        cores.add(_read(topology) or str(cpu))
    return max(1, len(cores))


def _cgroups(root: Path) -> list[Path]:
    """The control group of this process and those around it: each one's limits hold.

    A container sees its own as the outermost one, a service of systemd the whole tree.
    """
    top = root / "sys/fs/cgroup"
    lines = (_read(root / "proc/self/cgroup") or "").splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::/")), "/")
    names = [name for name in path.split("/") if name]
    # A group outside of what is mounted here.
    if ".." in names:
        return [top]
    return [top.joinpath(*names[:depth]) for depth in range(len(names) + 1)]


def _cgroup_cpus(folder: Path) -> int | None:
    """Read the quota of a control group in whole CPUs, at least one; None without a quota."""
    words = (_read(folder / "cpu.max") or "").split()
    if len(words) != 2 or not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return None
    return max(1, int(words[0]) // int(words[1]))


def _memory(root: Path) -> tuple[int, int]:
    """Read total and available bytes."""
    fields = {}
    for line in (_read(root / "proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[0] if rest.split() else ""
        if number.isdigit():
            fields[name] = int(number) * 1024
    if "MemTotal" in fields:
        return fields["MemTotal"], fields.get("MemAvailable", fields.get("MemFree", 0))
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    total_bytes = page_bytes * os.sysconf("SC_PHYS_PAGES")
    # Without /proc nobody says what is free; half of the total is a careful guess.
    return total_bytes, total_bytes // 2


def _cgroup_memory(folder: Path) -> tuple[int | None, int]:
    """Read limit and use of a group. File pages that can be dropped do not count as used."""
    limit = _read(folder / "memory.max") or ""
    current = _read(folder / "memory.current") or ""
    if not limit.isdigit() or not current.isdigit():
        return None, 0
    inactive_bytes = 0
    for line in (_read(folder / "memory.stat") or "").splitlines():
        name, _, number = line.partition(" ")
        if name == "inactive_file" and number.isdigit():
            inactive_bytes = int(number)
    return int(limit), max(0, int(current) - inactive_bytes)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
