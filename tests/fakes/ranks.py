"""Ranks of a divided model as threads of one process, over the sockets that processes use too."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

import numpy as np
from numpy.typing import DTypeLike

from headrace.ops.reference.host_group import HostGroup
from headrace.ops.reference.reference_ops import ReferenceOps

Result = TypeVar("Result")


def run_ranks(
    num_ranks: int,
    work: Callable[[ReferenceOps, int], Result],
    dtype: DTypeLike = np.float64,
) -> list[Result]:
    """What `work(ops, rank)` gives on each rank."""
    groups = [HostGroup(rank, num_ranks) for rank in range(num_ranks)]
    address = groups[0].open()

    def run(group: HostGroup) -> Result:
        with closing(group):
            group.join(address)
            return work(ReferenceOps(dtype, group), group.rank)

    with ThreadPoolExecutor(num_ranks) as pool:
        return list(pool.map(run, groups))
