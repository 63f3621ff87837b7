"""The draft model that the settings ask for, found on this machine; what models cannot have."""

from __future__ import annotations

from pathlib import Path

from headrace.core.config import EngineConfig
from headrace.core.errors import ConfigError, ModelNotFound
from headrace.hub.model_store import ModelStore
from headrace.launch.model_kind import is_encoder


def find_draft(store: ModelStore, engine: EngineConfig, may_pull: bool = False) -> Path | None:
    """File or folder of the draft model, None where none is wanted.

    Raises: ModelNotFound, ConfigError, and a pull's where that is allowed.
    """
    name = engine.wanted_draft_model
    if name is None:
        return None
    try:
        path = store.resolve(name).path
    except ModelNotFound:
        if not may_pull:
            raise
        path = store.pull(name).path
    if is_encoder(path):
        allowed = "a model that generates, with the vocabulary of the one it guesses for"
        raise ConfigError("engine.draft_model", name, allowed)
    return path


def refuse_ranks(engine: EngineConfig, what: str, why: str) -> None:
    """Raises: ConfigError where a model is to be divided that cannot be."""
    size = engine.tensor_parallel_size
    if size > 1:
        raise ConfigError("engine.tensor_parallel_size", size, f"1 for {what}", why)


def refuse_draft(engine: EngineConfig, what: str, why: str) -> None:
    """Raises: ConfigError where a draft model is asked for, and there is nothing to guess."""
    name = engine.wanted_draft_model
    if name is not None:
        raise ConfigError("engine.draft_model", name, f"none for {what}", why)
