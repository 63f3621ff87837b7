"""What the tokenizers library says of files and texts that it cannot take.

In: a tokenizer of a model, which is not trusted. Out: errors of ours. The library raises bare
Exception, and where it panics a class that is no Exception at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from headrace.core.errors import HeadraceError, ModelFileError, RequestError

# Spaces become ▁, of one character. Each pattern counts twice, and models have some of them.
_MAX_GROWTH = 4096
_MAX_TEMPLATE_PARTS = 64
_MAX_ERROR_CHARACTERS = 300


@contextmanager
def tokenizer_faults(to_error: Callable[[str], HeadraceError]) -> Iterator[None]:
    """Raises: what `to_error` makes of a fault of the library; other errors as they are."""
    try:
        yield
    except BaseException as error:
        is_fault = type(error) is Exception or type(error).__name__ == "PanicException"
        if not is_fault:
            raise
        raise to_error(str(error)[:_MAX_ERROR_CHARACTERS]) from error


def text_fault(told: str) -> RequestError:
    """The error for a text, or tokens, on which a tokenizer fails that works on others."""
    return RequestError(
        f"The model's tokenizer fails on this text: {told}. Send a shorter or another one.",
        code="invalid_value",
    )


def check_growth(path: Path, backend: Backend) -> None:
    """See that a text does not become many times as long before it is cut into tokens.

    Raises: ModelFileError.
    """
    growth = 1.0
    for step in _steps(backend.normalizer, "normalizers"):
        if step.get("type") == "Replace":
            growth *= max(1.0, _growth(step))
    if growth > _MAX_GROWTH:
        raise ModelFileError(
            f"{path}: its normalizer makes texts {growth:.0f} times as long; at most "
            f"{_MAX_GROWTH} times is read. The file is damaged."
        )
    for step in _steps(backend.post_processor, "processors"):
        parts = [*step.get("single", ()), *step.get("pair", ())]
        ids = [i for token in dict(step.get("special_tokens", {})).values() for i in token["ids"]]
        if len(parts) > _MAX_TEMPLATE_PARTS or len(ids) > _MAX_TEMPLATE_PARTS:
            raise ModelFileError(
                f"{path}: its post-processor puts {max(len(parts), len(ids))} parts together; at "
                f"most {_MAX_TEMPLATE_PARTS} are read. The file is damaged."
            )


def _growth(step: Mapping[str, Any]) -> float:
    """Characters after a replacement for one before it, at most."""
    replaced = step["pattern"].get("String")
    if replaced:
        return len(step["content"]) / len(replaced)
    return len(step["content"]) + 1.0  # a pattern may match between any two characters


def _steps(part: Any, name: str) -> list[dict[str, Any]]:
    """A part of a tokenizer.json as its steps, those within each other too."""
    waiting = [] if part is None else [json.loads(part.__getstate__())]
    found = []
    while waiting:
        step = waiting.pop()
        waiting += step.get(name) or []
        found.append(step)
    return found
