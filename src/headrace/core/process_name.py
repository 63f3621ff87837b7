"""The name that `ps` and `top` show for this process."""

from __future__ import annotations

import contextlib

SERVER, ENGINE, RANK = "headrace-serve", "headrace-engine", "headrace-rank"


def name_process(name: str) -> None:
    """Give this process a name where the system lets it: Linux, which keeps 15 bytes of it.

    Source: proc_pid_comm(5).
    """
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(name)
