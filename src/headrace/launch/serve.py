"""From a model's name and a Config to the HTTP application around its engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from headrace.core.config import Config
from headrace.core.version import headrace_version
from headrace.engine.started_model import Progress
from headrace.launch.accounts import AccountsWatch
from headrace.launch.backends import open_engine
from headrace.launch.local_engine import LocalEngine
from headrace.launch.response_door import ResponseDoor
from headrace.launch.storage import LazyStorage
from headrace.observe.prometheus import PrometheusMetrics
from headrace.server.app import HeadraceApp, build_app


def build(
    config: Config, model: str, progress: Progress | None = None
) -> tuple[HeadraceApp, LocalEngine]:
    """Load the model and join it to the routes; the app starts and stops the engine.

    Raises: ModelNotFound, ModelFileError, OutOfMemory, ConfigError, StoreError.
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
    engine = open_engine(model, config, progress=progress, make_sink=make_sink)

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
