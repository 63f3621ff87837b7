"""A rank in a process of its own: logits of tiny models, over gloo and interpreted kernels.

Called with its rank, the number of ranks, a folder for results, and folders of models. Rank 0
writes the address that the others are given.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from headrace.executor.shard import Shard
from headrace.ops.cuda.cuda_ops import CudaOps
from headrace.ops.cuda.rank_ops import make_rank_ops
from oracle.driver import Driver, load_model

PROMPT = (11, 7, 250, 9)


def logits(folder: Path, ops: CudaOps, shard: Shard) -> np.ndarray:
    """Of a prompt, then of a token alone."""
    driver = Driver(load_model(folder, ops, shard=shard), num_blocks=4, block_size=16)
    return driver.run(PROMPT, [3, 1])


def main(rank: int, num_ranks: int, out: Path, models: list[Path]) -> None:
    """Write what each model gives on this rank."""
    ops, group = make_rank_ops(rank, num_ranks)
    if rank == 0:
        sys.stdout.write(group.open() + "\n")
        sys.stdout.flush()
    group.join(sys.stdin.readline().strip())
    found = {folder.name: logits(folder, ops, Shard(rank, num_ranks)) for folder in models}
    np.savez(out / f"{rank}.npz", **found)
    group.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), [Path(p) for p in sys.argv[4:]])
