"""From a model's name and a Config to a backend that answers.

The first half of the composition root: hub, settings and weights meet here. Imports nothing that
`local_engine.py` adds, which is loaded while C++ packs the weights.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from headrace.config.machine import detect_machine
from headrace.config.resolve import resolve_engine
from headrace.core.config import DEFAULT_MODEL, Config
from headrace.core.errors import ModelNotFound, UnsupportedFormat
from headrace.engine.started_model import Progress, start_model
from headrace.hub.model_store import LocalModel, ModelStore
from headrace.launch.draft_choice import find_draft
from headrace.launch.model_kind import is_encoder
from headrace.weights.adapter_files import check_adapters

if TYPE_CHECKING:
    from headrace.launch.engine_backend import MakeSink
    from headrace.launch.local_engine import LocalEngine


def open_engine(
    model: str,
    config: Config,
    *,
    progress: Progress | None = None,
    make_sink: MakeSink | None = None,
    may_pull: bool = False,
    is_brief: bool = False,
) -> LocalEngine:
    """Find a model, plan its memory, load it. The engine is not started yet.

    `make_sink` gets the model's name and gives what takes the measurements. With `may_pull` a known
    model that is not local is fetched; without it that is an error that says how. `is_brief` starts
    sooner for a few short prompts; longer ones then wait once for the rest of the tokenizer.
    Raises: ModelNotFound, ModelSourceError, ModelFileError, OutOfMemory, ConfigError,
    UnsupportedFormat.
    """
    check_adapters(config.engine)
    store = ModelStore(config.hub)
    local = find_model(store, model, may_pull)
    if is_encoder(local.path):
        raise UnsupportedFormat(
            f"{local.name} is an encoder: it makes vectors and does not answer. For vectors: "
            f"`headrace embed --model {model} TEXT`, `headrace serve {model}` with /v1/embeddings, "
            f"or headrace.Embedder. For answers take a language model, such as {DEFAULT_MODEL}."
        )
    draft_path = find_draft(store, config.engine, may_pull)
    machine = detect_machine()
    engine_config = resolve_engine(config.engine, machine)
    free_bytes = machine.memory_available_bytes
    started = start_model(local.path, engine_config, free_bytes, progress, draft_path)
    finish_engine = importlib.import_module("headrace.launch.local_engine").finish_engine
    try:
        engine: LocalEngine = finish_engine(
            started,
            local,
            engine_config,
            cache_dir=config.hub.home / "tokenizers",
            progress=progress,
            make_sink=make_sink,
            is_brief=is_brief,
        )
    except BaseException:
        started.close()
        raise
    return engine


def find_model(store: ModelStore, name: str, may_pull: bool) -> LocalModel:
    """A local model, fetched first where that is allowed. Raises: ModelNotFound and the pull's."""
    try:
        return store.resolve(name)
    except ModelNotFound:
        if not may_pull:
            raise
    return store.pull(name)
