"""From a model's name and a Config to the HTTP application around its engine process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from headrace.core.config import Config
from headrace.core.version import headrace_version
from headrace.launch.accounts import AccountsWatch
from headrace.launch.engine_backend import EngineBackend
from headrace.launch.engine_start import StartingEngine, start_engine
from headrace.launch.response_door import ResponseDoor
from headrace.launch.storage import LazyStorage
from headrace.launch.supervised_engine import finish_engine
from headrace.observe.prometheus import PrometheusMetrics
from headrace.server.app import HeadraceApp, build_app


def build(
    config: Config, model: str, starting: StartingEngine | None = None
) -> tuple[HeadraceApp, EngineBackend]:
    """Load the model and join it to the routes; the app starts and stops the engine.

    `starting` is the model's engine process, where that was started before this was imported.
    Raises: ModelNotFound, ModelFileError, OutOfMemory, ConfigError, StoreError, EngineDied.
    """
    sinks: list[PrometheusMetrics] = []

    def make_sink(name: str) -> PrometheusMetrics:
        names = config.server.served_model_names
        sinks.append(PrometheusMetrics(names[0] if names else name))
        return sinks[0]

    watch = AccountsWatch(config)
    accounts = watch.open()
    door = ResponseDoor(config)
    storage = LazyStorage(config)
    engine = finish_engine(starting or start_engine(config, model), make_sink)

    @asynccontextmanager
    async def run_engine() -> AsyncIterator[None]:
        watch.start(sinks[0])
        door.start()
        await engine.start()
        try:
            yield
        finally:
            await engine.stop()
            await asyncio.to_thread(watch.close)
            await asyncio.to_thread(door.close)
            await asyncio.to_thread(storage.close)

    app = build_app(
        engine,
        config.server,
        sinks[0],
        headrace_version(),
        lifespan=run_engine,
        accounts=accounts,
        open_responses=door.open if door.is_wanted else None,
        storage=storage,
    )
    return app, engine
