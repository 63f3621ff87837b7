"""From a tier of a workload to a Backend that answers, for as long as it is measured.

In: a tier's model, or the name of an encoder, and settings. Out: a started backend, and what
computes in it for records. Ends what it started.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from headrace.client.upstream import Upstream
from headrace.config.env import read_secret
from headrace.config.machine import detect_machine
from headrace.core.backend import Backend
from headrace.core.config import Config
from headrace.core.frozen import frozen
from headrace.core.upstreams import UpstreamConfig
from headrace.core.version import headrace_version
from headrace.hub.model_store import ModelStore
from headrace.launch.backends import find_model, open_engine
from headrace.launch.encoder_backend import open_encoder_backend


@frozen
class OpenTier:
    """A backend and what it is, for records."""

    backend: Backend
    facts: Mapping[str, Any]


@asynccontextmanager
async def open_local_tier(model: str, config: Config) -> AsyncIterator[OpenTier]:
    """An engine of this process. Raises: what `open_engine` raises."""
    engine = open_engine(model, config, may_pull=True)
    await engine.start()
    try:
        machine = detect_machine()
        facts = {
            "ops": engine.environment["ops"],
            "num_threads": engine.environment["num_threads"],
            "cpu": machine.cpu_model,
            "headrace": headrace_version(),
        }
        yield OpenTier(engine, facts)
    finally:
        await engine.stop()


@asynccontextmanager
async def open_remote_tier(config: UpstreamConfig) -> AsyncIterator[OpenTier]:
    """Another server. Raises: ConfigError for a key that is not there."""
    upstream = Upstream(config, read_upstream_key(config))
    try:
        yield OpenTier(upstream, {"headrace": headrace_version()})
    finally:
        upstream.close()


def read_upstream_key(config: UpstreamConfig) -> str | None:
    """The key that a tier names, None where it names none. Raises: ConfigError."""
    if config.key_variable is None:
        return None
    return read_secret(config.key_variable, os.environ, f"tiers.{config.name}.api_key")


@asynccontextmanager
async def open_scoring_encoder(model: str, config: Config) -> AsyncIterator[OpenTier]:
    """An encoder of this process. Raises: what `open_encoder_backend` raises."""
    encoder = open_encoder_backend(find_model(ModelStore(config.hub), model, True), config)
    await encoder.start()
    try:
        yield OpenTier(encoder, {})
    finally:
        await encoder.stop()
