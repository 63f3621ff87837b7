"""Triton's interpreter as tests need it: kernels run on CPU tensors, slowly, program by program.

In: nothing. Out: two repairs of Triton 3.6. Numpy 2.4 no longer turns an array of one element into
an int, as the interpreter does for the bounds of loops. And arithmetic does not warn: infinities
and NaNs are as quiet as on a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton
from triton.runtime import interpreter

from headrace.core.errors import ConfigError


def is_interpreting() -> bool:
    """Whether kernels were made for the interpreter, which cannot run on a GPU."""
    return bool(triton.knobs.runtime.interpret)


def prepare_interpreter() -> None:
    """Repair loop bounds, once. Raises: ConfigError where kernels were not made interpretable."""
    if not is_interpreting():
        raise ConfigError(
            "engine.device", "cuda on cpu", "cuda, cpu, reference",
            "Triton kernels run without a GPU only in its interpreter: set TRITON_INTERPRET=1 "
            "before Python starts.",
        )  # fmt: skip
    if not isinstance(interpreter._patch_lang_tensor, _Repaired):
        interpreter._patch_lang_tensor = _Repaired(interpreter._patch_lang_tensor)
        interpreter.GridExecutor.__call__ = np.errstate(all="ignore")(
            interpreter.GridExecutor.__call__
        )


class _Repaired:
    """Triton's patch of its tensor class, then ours."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __call__(self, tensor: Any, scope: Any) -> None:
        self._original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda value: int(value.handle.data.item()))
