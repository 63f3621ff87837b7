"""The start of an engine process for a model. Imports next to nothing: the rest loads beside it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from headrace.config.machine import detect_machine
from headrace.config.resolve import resolve_engine
from headrace.core.config import Config
from headrace.engine.engine_process import EngineProcess
from headrace.engine.messages import StartEngine
from headrace.engine.supervisor import StartedProcess
from headrace.hub.model_store import LocalModel, ModelStore


@dataclass(frozen=True, slots=True)
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


def start_engine(config: Config, model: str) -> StartingEngine:
    """Have a process load a model that is on this machine. Raises: ModelNotFound, ConfigError."""
    begin_s = time.monotonic()
    local = ModelStore(config.hub).resolve(model)
    machine = detect_machine()
    cache_dir = config.hub.home / "tokenizers"
    order = StartEngine(
        path=str(local.path),
        engine=resolve_engine(config.engine, machine),
        free_bytes=machine.memory_available_bytes,
        cache_dir=str(cache_dir),
        log_level=logging.getLogger().getEffectiveLevel(),
    )
    process = EngineProcess()
    process.send(order)
    return StartingEngine(process, order, local, cache_dir, begin_s)
