"""CudaOps over numpy arrays, so that the cases of every implementation run on it too.

Arrays share their memory with the tensors: what a kernel changes in place, the caller sees. Only
for device `cpu`, where Triton's interpreter runs the kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from headrace.ops.cuda.cuda_ops import CudaOps

INDICES = ("positions", "slot_mapping", "rows", "token_ids")


class HostCudaOps:
    """Every op with its float arrays as tensors and its results as arrays."""

    def __init__(self) -> None:
        self._ops = CudaOps("cpu", torch.float32)
        self.name = self._ops.name
        self.dtype = np.float32

    def __getattr__(self, name: str) -> Any:
        op = getattr(self._ops, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            given = [as_tensor(arg) for arg in args]
            return as_array(op(*given, **{key: as_tensor(arg) for key, arg in kwargs.items()}))

        return call if callable(op) else op


def as_tensor(value: Any) -> Any:
    """Float arrays become tensors; indices stay in host memory, where they are checked."""
    is_floats = isinstance(value, np.ndarray) and value.dtype == np.float32
    return torch.from_numpy(value) if is_floats else value


def as_array(value: Any) -> Any:
    return value.numpy() if isinstance(value, torch.Tensor) else value
