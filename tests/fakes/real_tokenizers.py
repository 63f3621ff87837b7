"""Tokenizers of the real models, built once for all tests of a run."""

from __future__ import annotations

import functools
from pathlib import Path

from headrace.text.tokenizer import Tokenizer
from headrace.weights.gguf import GgufReader


@functools.cache
def real_tokenizer(path: Path) -> Tokenizer:
    """Build from the file, without a cache on disk."""
    return Tokenizer.from_gguf(GgufReader(path).metadata)
