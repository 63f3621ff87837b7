"""TorchGroup: ranks over torch.distributed: NCCL between GPUs, gloo where kernels are interpreted.

One process per GPU of one machine. Ranks find each other by a store that rank 0 keeps on a free
port of 127.0.0.1, and they talk over the loopback interface or the GPUs' own links. NCCL's calls go
into a captured graph like any kernel.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from headrace.core.errors import ConfigError, EngineDied

FIELD = "engine.tensor_parallel_size"
HOST = "127.0.0.1"
TIMEOUT = timedelta(minutes=2)
"""Of a rank that others wait for: it may be compiling a kernel."""
# torch 2.13 gave it this name, and warns of the other one.
_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


class TorchGroup:
    """See RankGroup. A process is in one at a time."""

    def __init__(self, rank: int, num_ranks: int, device: torch.device) -> None:
        self.rank, self.num_ranks, self._device = rank, num_ranks, device
        self._listener: socket.socket | None = None

    def open(self) -> str:
        """See RankGroup: the number of a port of 127.0.0.1."""
        self._listener = socket.create_server((HOST, 0))
        return str(self._listener.getsockname()[1])

    def join(self, address: str) -> None:
        """See RankGroup. Raises: ConfigError where this process is in a group already."""
        if dist.is_initialized():
            hint = "This process has a divided model already: close it first."
            raise ConfigError(FIELD, self.num_ranks, "1 for a process's second model", hint)
        for name in INTERFACES:
            os.environ.setdefault(name, "lo")
        is_gpu = self._device.type == "cuda"
        try:
            store = dist.TCPStore(
                HOST, int(address), self.num_ranks, is_master=self.rank == 0, timeout=TIMEOUT,
                wait_for_workers=False,
                master_listen_fd=self._listener.detach() if self._listener else None,
            )  # fmt: skip
            dist.init_process_group(
                "nccl" if is_gpu else "gloo", store=store, rank=self.rank,
                world_size=self.num_ranks, timeout=TIMEOUT,
                device_id=self._device if is_gpu else None,
            )  # fmt: skip
        except RuntimeError as error:
            raise EngineDied(f"rank {self.rank} could not reach the others: {error}") from error

    def all_reduce(self, x: Tensor) -> Tensor:
        """See RankGroup."""
        if x.numel():
            dist.all_reduce(x)
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        """See RankGroup."""
        parts = x.new_empty((self.num_ranks, *x.shape))
        if x.numel():
            _gather(parts.view(-1, x.shape[1]), x.contiguous())
        return parts

    def close(self) -> None:
        """See RankGroup. Waits for no rank: others may be gone."""
        if not dist.is_initialized():
            return
        if self._device.type == "cuda":
            dist.distributed_c10d._abort_process_group()
        else:
            dist.destroy_process_group()
