"""What this machine has, as found. A result, never a setting."""

from __future__ import annotations

from headrace.core.frozen import frozen


@frozen(kw_only=True)
class Machine:
    """Cores and memory that this process may use, after affinity and container limits.

    Units: bytes. `num_cores` counts physical cores, `num_cpus` hardware threads.
    """

    num_cores: int
    num_cpus: int
    memory_total_bytes: int
    memory_available_bytes: int
    cpu_model: str = "unknown"


@frozen(kw_only=True)
class Roof:
    """Peaks of the machine, just measured. Units: bytes/s, operations/s (a multiply-add is 2)."""

    read_bytes_per_s: float
    int8_ops_per_s: float
