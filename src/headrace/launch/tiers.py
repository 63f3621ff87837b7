"""Tiers of the settings as a Router over upstreams and the models that run here.

In: a RoutingConfig, the models of this machine, the environment with keys. Out: the Router, and
what closes its connections and ends what goes on beside calls. Imported where there are tiers.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path

from headrace.client.upstream import Upstream
from headrace.config.env import read_secret
from headrace.core.backend import Backend
from headrace.core.clock import SystemClock
from headrace.core.config import Config
from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen
from headrace.core.routing_config import RoutingConfig, TierBackendConfig, TierConfig
from headrace.core.telemetry import MetricSink
from headrace.core.upstreams import UpstreamConfig
from headrace.economics.accounts import Accounts
from headrace.economics.usage_row import SHADOW
from headrace.launch.prices import tier_prices
from headrace.launch.shadow_calls import shadow_asker
from headrace.router.route_model import read_route_model
from headrace.router.router import Router, RouterOptions
from headrace.router.semantic_cache import TextIndex
from headrace.router.shadow_log import ShadowFiles
from headrace.router.tier import Member, Tier

_log = logging.getLogger(__name__)


@frozen
class Surroundings:
    """What a router stands in, beside its own settings: who pays, and what else is set."""

    accounts: Accounts = field(default_factory=Accounts)
    config: Config = field(default_factory=Config)


def open_tiers(
    config: RoutingConfig,
    local: Backend | None,
    sink: MetricSink,
    environ: Mapping[str, str],
    around: Surroundings | None = None,
) -> tuple[Router, Callable[[], None]]:
    """Raises: ConfigError for a key that is not there, or a model that does not run here."""
    upstreams = {entry.name: open_upstream(entry, environ) for entry in config.upstreams}
    tiers = [_make_tier(tier, upstreams, local) for tier in config.tiers]
    # What is wrong with a price is told here too, where nobody may be charged yet.
    tier_prices(config)
    options = _open_options(config, around or Surroundings())
    router = Router(config, tiers, SystemClock(), sink, local, options)

    def close() -> None:
        router.close()
        if options.index is not None:
            options.index.close()
        for upstream in upstreams.values():
            upstream.close()

    return router, close


def _open_options(config: RoutingConfig, around: Surroundings) -> RouterOptions:
    """Raises: ConfigError for a file that is no model, ModelNotFound for an encoder."""
    models = {
        entry.name: read_route_model(Path(entry.model), f"routing.learned.{entry.name}.model")
        for entry in config.learned
    }
    index: TextIndex | None = None
    if config.cache is not None and config.cache.semantic is not None:
        # Readers, numpy and kernels, which other routers do without.
        open_texts = importlib.import_module("headrace.launch.nearest_texts").open_nearest_texts
        field = "routing.cache.semantic.encoder"
        index = open_texts(around.config, config.cache.semantic.encoder, field)
    shadow = config.shadow
    if shadow is None:
        return RouterOptions(models=models, index=index)
    folder = around.config.hub.home / SHADOW if shadow.folder is None else Path(shadow.folder)
    clock = SystemClock()
    log = ShadowFiles(folder, shadow.retention_days, shadow.max_bytes, clock)
    ask = shadow_asker(around.accounts, clock)
    return RouterOptions(models=models, index=index, ask_shadow=ask, shadow_log=log)


def open_upstream(config: UpstreamConfig, environ: Mapping[str, str]) -> Upstream:
    """An upstream with the key that its settings name. Raises: ConfigError."""
    variable = config.key_variable
    where = f"upstreams.{config.name}.api_key"
    return Upstream(config, None if variable is None else read_secret(variable, environ, where))


def _make_tier(
    config: TierConfig, upstreams: Mapping[str, Upstream], local: Backend | None
) -> Tier:
    members = tuple(_make_member(backend, config, upstreams, local) for backend in config.backends)
    return Tier(config, members)


def _make_member(
    backend: TierBackendConfig,
    tier: TierConfig,
    upstreams: Mapping[str, Upstream],
    local: Backend | None,
) -> Member:
    if backend.upstream is not None:
        return Member(backend.name, upstreams[backend.upstream], backend.model)
    known = {} if local is None else {info.name: info for info in local.models()}
    if local is None or backend.model not in known:
        here = ", ".join(known) or "none"
        raise ConfigError(f"tiers.{tier.name}.backends", backend.model, f"models here: {here}")
    if known[backend.model].kind != "generate":
        allowed = "models that answer; this one makes vectors or classes"
        raise ConfigError(f"tiers.{tier.name}.backends", backend.model, allowed)
    return Member(backend.name, local, backend.model)
