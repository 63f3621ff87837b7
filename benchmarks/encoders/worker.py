"""What every engine's process here does: load, then answer orders on stdin, one JSON line each.

In: {"texts": [...], "batch": n}. Out: {"seconds": s}, and {"vectors": [...]} where they are asked
for. An engine is a function from texts to vectors of length 1. Runs in the environments of all
peers, so it needs the standard library alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

Embed = Callable[[Sequence[str]], Any]
"""Texts to a numpy array [n, C]."""


def serve(embed: Embed, about: dict[str, Any]) -> None:
    """Answer orders until stdin ends."""
    _say(about)
    for line in sys.stdin:
        order = json.loads(line)
        texts, size = order["texts"], order["batch"]
        begin_s = time.perf_counter()
        vectors = [embed(texts[at : at + size]) for at in range(0, len(texts), size)]
        answer: dict[str, Any] = {"seconds": time.perf_counter() - begin_s}
        if order.get("wants_vectors"):
            answer["vectors"] = [row for part in vectors for row in part.tolist()]
        _say(answer)


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
