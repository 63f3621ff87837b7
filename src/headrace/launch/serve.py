"""From names of models and a Config to the HTTP application around their engine processes."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict

from headrace.config.machine import detect_machine
from headrace.config.shown import show_config
from headrace.core.backend import Backend
from headrace.core.clock import SystemClock
from headrace.core.config import Config
from headrace.core.engine_config import parse_adapters
from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen
from headrace.core.version import headrace_version
from headrace.economics.accounts import Accounts
from headrace.economics.tenant_metrics import TenantMetrics
from headrace.hub.model_store import ModelStore
from headrace.launch.accounts import AccountsWatch
from headrace.launch.engine_backend import EngineBackend
from headrace.launch.engine_start import Starting, StartingEncoder, start_engine
from headrace.launch.late_part import LatePart
from headrace.launch.model_builds import ModelBuilds, with_adapter
from headrace.launch.model_pool import ModelPool
from headrace.launch.open_traces import open_traces
from headrace.launch.pooled_model import PooledModel
from headrace.launch.response_door import ResponseDoor
from headrace.launch.several_models import check_several
from headrace.launch.supervised_engine import OpenEngine, finish_engine
from headrace.observe.prometheus import PrometheusMetrics
from headrace.server.app import HeadraceApp
from headrace.server.call_traces import CallTraces
from headrace.server.kept_responses import KeptResponses
from headrace.server.services import ServerFacts, Services, Storage

FREE_SHARE = 0.7
"""Of the free memory, for all models together, unless a limit is set."""


@frozen
class Served:
    """An application, its models, and what their memory goes into, a line for each.

    Without a model of its own, where every tier is elsewhere, there is no pool.
    """

    app: HeadraceApp
    pool: ModelPool | None
    memory_plans: tuple[str, ...]


class _Sinks:
    """Metrics of all models in one text; a model that is loaded again goes on counting."""

    def __init__(self, config: Config, first: str) -> None:
        names = config.server.served_model_names
        self.shown = {first: names[0]} if names else {}
        has_old_names = config.server.old_metric_names
        self.first = PrometheusMetrics(self.shown.get(first, first), has_old_names=has_old_names)
        self._sinks = {first: self.first}

    def make(self, name: str) -> PrometheusMetrics:
        """The sink of a model."""
        if name not in self._sinks:
            self._sinks[name] = self.first.for_model(self.shown.get(name, name))
        return self._sinks[name]


def build(config: Config, models: Sequence[str], starting: Starting | None = None) -> Served:
    """Load the first model and join all to the routes; the app starts and stops the engines.

    With tiers a router stands before the models; only then there may be none here. `starting` is
    the first model's engine process, where that was started before this was imported.
    Raises: ModelNotFound, ModelFileError, OutOfMemory, ConfigError, StoreError, EngineDied.
    """
    if config.routing is not None and config.server.served_model_names:
        names = ", ".join(config.server.served_model_names)
        raise ConfigError("server.served_model_names", names, "none where there are tiers")
    check_several(config, models)
    watch = AccountsWatch(config)
    accounts = watch.open()
    door = ResponseDoor(config)
    storage: LatePart[Storage] = LatePart(config, "headrace.launch.stored_files:open_stored_files")
    builds = ModelBuilds(config.hub.home)
    sinks = _Sinks(config, ModelStore(config.hub).resolve(models[0]).name if models else "")
    if config.server.tenant_metrics:
        most = config.server.tenant_metrics
        accounts.watchers += (TenantMetrics(sinks.first, most, sinks.shown),)
    traces = open_traces(config)
    if traces is not None:
        host, port = config.server.host, config.server.port
        accounts.watchers += (CallTraces(traces, host, port),)
    machine = detect_machine()
    budget_bytes = config.engine.memory_bytes or int(FREE_SHARE * machine.memory_available_bytes)

    def open_engine(starting: Starting) -> EngineBackend:
        if isinstance(starting, StartingEncoder):
            # Readers, numpy and kernels, which the front process of a language model does without.
            encoders = importlib.import_module("headrace.launch.encoder_backend")
            engine: EngineBackend = encoders.open_encoder_backend(
                starting.local, starting.config, make_sink=sinks.make
            )
        else:
            engine = finish_engine(starting, sinks.make)
        builds.add(starting.local, engine.environment)
        return engine

    pool: ModelPool | None = None
    plans: tuple[str, ...] = ()
    if len(models) == 1:
        starting = starting or start_engine(config, models[0])
        pool, plans = _one_model(config, models[0], starting, open_engine, budget_bytes)
    elif models:
        # Readers, numpy and kernels, which the front process of one model does without.
        share = importlib.import_module("headrace.launch.many_models").share_models
        pool, plans = share(config, models, open_engine, budget_bytes)

    _check_default_length(config, pool)
    backend, close_tiers = _route(config, pool, sinks.first, accounts)
    watch.warn_of_unpriced(() if pool is None else pool.models())

    @asynccontextmanager
    async def run_engines() -> AsyncIterator[None]:
        watch.start(sinks.first)
        door.start()
        try:
            if pool is not None:
                await pool.start()
            yield
        finally:
            close_tiers()
            if pool is not None:
                await pool.stop()
            await asyncio.to_thread(builds.close)
            await asyncio.to_thread(watch.close)
            await asyncio.to_thread(door.close)
            await asyncio.to_thread(storage.close)
            if traces is not None:
                await asyncio.to_thread(traces.close)

    services = Services(
        backend,
        config.server,
        sinks.first,
        headrace_version(),
        accounts=accounts,
        kept=KeptResponses(door.open if door.is_wanted else None),
        storage=storage,
        facts=ServerFacts(show_config(config), asdict(machine)),
        build_of=lambda name: with_adapter(builds, pool, name) if pool is not None else None,
    )
    return Served(HeadraceApp(services, run_engines), pool, plans)


def _check_default_length(config: Config, pool: ModelPool | None) -> None:
    """Raises: ConfigError for a length of answers that no model here has room for."""
    wanted = config.server.default_max_tokens
    models = () if pool is None else pool.models()
    longest = max((info.max_model_len for info in models if info.kind == "generate"), default=None)
    if wanted is not None and longest is not None and wanted >= longest:
        allowed = f"less than {longest}, the tokens of a prompt and its answer here"
        hint = "Leave it out for what the prompt leaves."
        raise ConfigError("server.default_max_tokens", wanted, allowed, hint)


def _route(
    config: Config, pool: ModelPool | None, sink: PrometheusMetrics, accounts: Accounts
) -> tuple[Backend, Callable[[], None]]:
    """The models here, or a router before them, and what closes its connections.

    Raises: ConfigError.
    """
    if config.routing is not None:
        # Connections and policies, which a server of its own models does without.
        tiers = importlib.import_module("headrace.launch.tiers")
        found: tuple[Backend, Callable[[], None]] = tiers.open_tiers(
            config.routing, pool, sink, os.environ, tiers.Surroundings(accounts, config)
        )
        return found
    if pool is None:
        raise ConfigError("MODEL", "none", "at least one model, or tiers in the settings")
    return pool, lambda: None


def _one_model(
    config: Config,
    name: str,
    starting: Starting,
    open_engine: OpenEngine,
    budget_bytes: int,
) -> tuple[ModelPool, tuple[str, ...]]:
    """A model that has the budget for itself; another one of its kind may be made beside it."""
    engine = open_engine(starting)

    def load() -> EngineBackend:
        return open_engine(start_engine(config, name, is_first=False))

    model = PooledModel(engine.model_info, engine.total_bytes, load)
    budget_bytes = max(budget_bytes, engine.total_bytes)
    idle_s = config.server.idle_unload_s
    adapters = parse_adapters(config.engine.adapters)
    pool = ModelPool([model], budget_bytes, SystemClock(), idle_s, engine, adapters)
    return pool, (engine.memory_plan,)
