"""FakeGraph: what CUDA graphs do, on CPU tensors: a run's work is written down and done again.

Kernels keep the addresses and the scalars they were launched with, library calls their tensors. A
replay does that work and nothing else of the run: a value that the host computed stays as it was,
so a step that bakes one in gives a wrong result. Work that a capture cannot hold is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import GridExecutor

REFUSED = ("_local_scalar_dense", "nonzero", "item", "unique", "masked_select")
FRESH = ("empty", "empty_strided", "new_empty", "empty_like")


class FakeGraph:
    """A graph of CPU work."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.num_replays = 0

    def capture(self, run: Callable[[], Sequence[torch.Tensor]]) -> Sequence[torch.Tensor]:
        run()  # a capture is warmed up
        launch = GridExecutor.__call__

        def note_launch(executor: Any, *args: Any, **kwargs: Any) -> None:
            self.calls.append(lambda: launch(executor, *args, **kwargs))
            with _Off():
                launch(executor, *args, **kwargs)

        GridExecutor.__call__ = note_launch
        try:
            with _Notes(self.calls):
                return run()
        finally:
            GridExecutor.__call__ = launch

    def replay(self) -> None:
        self.num_replays += 1
        for call in self.calls:
            call()


_is_off = False


class _Off:
    """While a kernel is interpreted, its own use of torch is not the run's."""

    def __enter__(self) -> None:
        global _is_off
        self._before, _is_off = _is_off, True

    def __exit__(self, *_: object) -> None:
        global _is_off
        _is_off = self._before


class _Notes(TorchDispatchMode):
    """Writes library calls down; a replay writes their results where they were."""

    def __init__(self, calls: list[Callable[[], None]]) -> None:
        super().__init__()
        self._calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if _is_off or name in FRESH:
            return result
        if name in REFUSED:
            raise AssertionError(f"a capture cannot hold {name}: it waits for the device")
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]

        def again() -> None:
            fresh = tree_leaves(func(*args, **kwargs))
            tensors = [leaf for leaf in fresh if isinstance(leaf, torch.Tensor)]
            for old, new in zip(outputs, tensors, strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)

        self._calls.append(again)
        return result
