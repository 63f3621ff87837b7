"""Real encoders with tiny random weights, served or bare."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fakes.served_app import RunningServer, run_server
from headrace.core.clock import SystemClock
from headrace.core.config import Config, EngineConfig
from headrace.hub.model_store import LocalModel
from headrace.launch.encoder_backend import open_encoder_backend
from headrace.launch.engine_backend import EngineBackend, MakeSink
from oracle.tiny_encoders import make_classifier, make_encoder, save, save_sentence_parts


def encoder_folder(folder: Path) -> Path:
    """A folder of sentence-transformers: means, of length 1, up to 40 tokens."""
    return save_sentence_parts(save(make_encoder(), folder))


def classifier_folder(folder: Path, num_labels: int = 1) -> Path:
    return save(make_classifier(num_labels), folder)


def open_backend(
    folder: Path, make_sink: MakeSink | None = None, **engine: object
) -> EngineBackend:
    """A backend that is not started."""
    options: dict[str, object] = {"num_threads": 1, "encoder_dtype": "f32", **engine}
    config = Config(engine=EngineConfig(**options))  # type: ignore[arg-type]
    local = LocalModel(folder, "tiny", 0)
    return open_encoder_backend(local, config, SystemClock(), make_sink)


@contextmanager
def served_encoder(folder: Path, **engine: object) -> Iterator[RunningServer]:
    """A server around the encoder, which is started."""
    backend = open_backend(folder, **engine)
    asyncio.run(backend.start())
    try:
        with run_server(backend) as server:  # type: ignore[arg-type]
            yield server
    finally:
        asyncio.run(backend.stop())
