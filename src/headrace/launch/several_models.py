"""What a server of several models cannot be asked for, seen before anything is fetched or made.

In: settings and the names of the models. Out: nothing, or an error that names a setting.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.core.config import Config
from headrace.core.errors import ConfigError, ModelNotFound
from headrace.hub.model_store import ModelStore
from headrace.launch.draft_choice import refuse_draft, refuse_ranks


def check_several(config: Config, names: Sequence[str]) -> None:
    """Raises: ConfigError. One model may have all of it."""
    if len(names) < 2:
        return
    if config.server.served_model_names:
        raise ConfigError(
            "server.served_model_names",
            ", ".join(config.server.served_model_names),
            "nothing where several models are served: each goes by its own name",
        )
    why = "Serve each model with a draft model by a server of its own."
    refuse_draft(config.engine, "several models", why)
    refuse_ranks(config.engine, "several models", "Serve each by a server of its own.")
    if config.engine.adapters:
        raise ConfigError(
            "engine.adapters",
            ", ".join(config.engine.adapters),
            "nothing where several models are served: load them later, with base_model_name",
        )
    store = ModelStore(config.hub)
    if len({_own_name(store, name) for name in names}) < len(names):
        raise ConfigError("MODEL", " ".join(names), "each model once")


def _own_name(store: ModelStore, name: str) -> str:
    """What a model is called here, however it is given; as it is given until it is fetched."""
    try:
        return store.resolve(name).name
    except ModelNotFound:
        return name
