"""The ops of one rank of several: a GPU of its own, and the group of all."""

from __future__ import annotations

import torch

from headrace.ops.cuda.cuda_ops import CudaOps
from headrace.ops.cuda.device import check_num_gpus
from headrace.ops.cuda.interpreted import is_interpreting
from headrace.ops.cuda.torch_group import TorchGroup
from headrace.ops.rank_group import RankGroup


def make_rank_ops(rank: int, num_ranks: int) -> tuple[CudaOps, RankGroup]:
    """The entry in ops/table.py: rank r has GPU r. With TRITON_INTERPRET=1 all are on the CPU.

    Raises: ConfigError without a GPU for each rank.
    """
    if is_interpreting():
        group = TorchGroup(rank, num_ranks, torch.device("cpu"))
        return CudaOps("cpu", torch.float32, group=group), group
    check_num_gpus(num_ranks)
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    group = TorchGroup(rank, num_ranks, device)
    return CudaOps(str(device), group=group), group
