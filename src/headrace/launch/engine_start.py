"""The start of an engine process for a model. Imports next to nothing: the rest loads beside it."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from headrace.config.machine import detect_machine
from headrace.config.resolve import resolve_engine
from headrace.core.config import Config
from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen
from headrace.engine.engine_process import EngineProcess
from headrace.engine.messages import StartEngine
from headrace.engine.supervisor import StartedProcess
from headrace.hub.model_store import LocalModel, ModelStore
from headrace.launch.draft_choice import find_draft, refuse_draft, refuse_ranks
from headrace.launch.model_kind import is_encoder


@frozen
class StartingEngine:
    """A process that loads a model. `wait` for it, or `close` it."""

    process: EngineProcess
    order: StartEngine
    local: LocalModel
    cache_dir: Path
    begin_s: float

    def wait(self) -> StartedProcess:
        """Wait until the model runs.

        Raises: ModelFileError, UnsupportedFormat, MissingTensor, OutOfMemory, ConfigError,
        EngineDied.
        """
        ready = self.process.wait_ready()
        return StartedProcess(self.process, self.order, ready, time.monotonic() - self.begin_s)

    def close(self) -> None:
        """End the process. Calling it twice is harmless."""
        self.process.close()


@frozen
class StartingEncoder:
    """An encoder to be loaded in this process, by whoever opens it."""

    config: Config
    local: LocalModel

    def close(self) -> None:
        """Nothing runs yet."""


Starting = StartingEngine | StartingEncoder


def start_engine(config: Config, model: str, *, is_first: bool = True) -> Starting:
    """Have a process load a model that is on this machine; an encoder loads when it is opened.

    `is_first`: adapters of the settings have to be there.
    Raises: ModelNotFound, ConfigError.
    """
    begin_s = time.monotonic()
    store = ModelStore(config.hub)
    local = store.resolve(model)
    if is_encoder(local.path):
        refuse_draft(config.engine, "an encoder", "It makes vectors; there is nothing to guess.")
        refuse_ranks(config.engine, "an encoder", "It is small: one process has it whole.")
        if config.engine.chat_template is not None:
            allowed = "a template for a language model"
            reason = f"{local.name} is an encoder, which reads no chats."
            raise ConfigError("engine.chat_template", config.engine.chat_template, allowed, reason)
        return StartingEncoder(config, local)
    draft_path = find_draft(store, config.engine)
    machine = detect_machine()
    cache_dir = config.hub.home / "tokenizers"
    order = StartEngine(
        path=str(local.path),
        engine=resolve_engine(config.engine, machine),
        free_bytes=machine.memory_available_bytes,
        cache_dir=str(cache_dir),
        log_level=logging.getLogger().getEffectiveLevel(),
        draft_path=None if draft_path is None else str(draft_path),
        is_first=is_first,
    )
    return StartingEngine(EngineProcess(order), order, local, cache_dir, begin_s)
