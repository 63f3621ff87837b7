"""TensorSource: where in a file one of our tensors lies, and what makes it ours.

Knows nothing of architectures: names.py and expert_names.py fill these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from headrace.core.errors import ModelFileError
from headrace.core.frozen import frozen

Kind = Literal["gguf", "safetensors"]
Transform = Literal["unpermute_rope", "add_one", "as_row"]


@frozen
class TensorSource:
    """Where one of our tensors comes from.

    `matrix` is one of a stack of experts', `rows` [start, stop) of the file's tensor, None for all.
    `unpermute_rope` turns rows of `num_heads` heads from interleaved pairs into halves; `add_one`
    adds 1 to a norm's weights; `as_row` makes a matrix of one row of a vector.
    An optional tensor may be absent: a tied head, a bias some models lack.
    """

    name: str
    rows: tuple[int, int] | None = None
    transform: Transform | None = None
    num_heads: int = 0
    is_optional: bool = False
    matrix: int | None = None


def read_size(
    config: Mapping[str, object], key: str, default: int | None = None, least: int = 1
) -> int:
    """A size of the model; without a default it must be there. Raises: ModelFileError."""
    value = config.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= 1 << 24:
        shown = "absent" if value is None else repr(value)[:80]
        raise ModelFileError(
            f"the model's {key} is {shown}; allowed: one integer from {least} to 2**24."
        )
    return value
