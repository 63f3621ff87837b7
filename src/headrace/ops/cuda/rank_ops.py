"""The ops of one rank of several: a GPU of its own, and the group of all."""

from __future__ import annotations

import torch

from headrace.core.errors import ConfigError
from headrace.ops.cuda.cuda_ops import CudaOps
from headrace.ops.cuda.device import why_unusable
from headrace.ops.cuda.interpreted import is_interpreting
from headrace.ops.cuda.torch_group import FIELD, TorchGroup
from headrace.ops.rank_group import RankGroup


def make_rank_ops(rank: int, num_ranks: int) -> tuple[CudaOps, RankGroup]:
    """The entry in ops/table.py: rank r has GPU r. With TRITON_INTERPRET=1 all are on the CPU.

    Raises: ConfigError without a GPU for each rank.
    """
    if is_interpreting():
        group = TorchGroup(rank, num_ranks, torch.device("cpu"))
        return CudaOps("cpu", torch.float32, group=group), group
    reason = why_unusable()
    if reason is not None:
        raise ConfigError("engine.device", "cuda", "cpu, reference", reason)
    num_gpus = torch.cuda.device_count()
    if num_gpus < num_ranks:
        hint = f"torch sees {num_gpus} GPUs; CUDA_VISIBLE_DEVICES says which it may see."
        raise ConfigError(FIELD, num_ranks, f"1 to {num_gpus} on this machine", hint)
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    group = TorchGroup(rank, num_ranks, device)
    return CudaOps(str(device), group=group), group
