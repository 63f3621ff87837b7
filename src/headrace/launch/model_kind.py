"""Whether a model on this machine is an encoder, told by its config alone: nothing is loaded."""

from __future__ import annotations

import json
from pathlib import Path

ENCODER_TYPES = frozenset({"bert", "camembert", "distilbert", "roberta", "xlm-roberta"})
"""The model types of models/registry.py that make vectors and do not generate."""


def is_encoder(path: Path) -> bool:
    """Whether a folder's config.json names an encoder. What cannot be read is not one."""
    if not path.is_dir():
        return False
    try:
        config = json.loads((path / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    name = config.get("model_type") if isinstance(config, dict) else None
    return isinstance(name, str) and name in ENCODER_TYPES
