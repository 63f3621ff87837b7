"""Settles every setting once: flag, then environment, then file, then default; then `auto`.

In: flags, environment, an optional file, and what the machine has. Out: a `Config` that nothing
writes to afterwards. Reads files and variables only through `config.load` and `config.env`.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from headrace.config import env, load
from headrace.core.config import Config
from headrace.core.engine_config import DEFAULT_ADAPTER_MEMORY_BYTES, EngineConfig
from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen
from headrace.core.machine import Machine

logger = logging.getLogger(__name__)

EXTENSION = "headrace._cpu"
NO_NAMES: Mapping[str, str] = {}


@frozen
class GivenSetting:
    """A value that somebody gave, as they wrote it, and where: a flag, a variable, a file."""

    value: object
    text: object
    source: str


def resolve_config(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    config_file: Path | None = None,
    flag_names: Mapping[str, str] = NO_NAMES,
) -> Config:
    """Gather the settings, the strongest first: flags, environment, file, defaults.

    Flags are dotted names (`engine.num_threads`); a value of None means that it was not given.
    `flag_names` say how a flag is written (`--threads`), for errors.
    What is derived from the machine stays open until `resolve_engine`.
    Raises: ConfigError.
    """
    for warning in env.find_unknown(environ):
        logger.warning("%s", warning)
    given = gather_settings(flags, environ, config_file, flag_names)
    path = config_file if config_file is not None else env.config_file(environ)
    try:
        built = load.build_config({name: setting.value for name, setting in given.items()})
        config = _with_adapter_room(built)
    except ConfigError as error:
        wrong = given.get(error.field)
        if wrong is None or not wrong.source.startswith((env.PREFIX, "-")):
            raise
        # Of several values only the wrong one is shown, and a path as it was typed.
        shown = error.value if isinstance(wrong.text, tuple | Path) else wrong.text
        raise ConfigError(wrong.source, shown, error.allowed, error.hint) from None
    if path is None or not load.has_routing(path):
        return config
    # Most starts have no tiers.
    read_routing = importlib.import_module("headrace.config.routing").read_routing
    return replace(config, routing=read_routing(path))


def gather_settings(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    config_file: Path | None = None,
    flag_names: Mapping[str, str] = NO_NAMES,
) -> dict[str, GivenSetting]:
    """Every setting that is not left to its default, by dotted name, with where it comes from.

    Raises: ConfigError.
    """
    path = config_file if config_file is not None else env.config_file(environ)
    given: dict[str, GivenSetting] = {}
    cache_home = env.cache_home(environ)
    if cache_home is not None:
        given["hub.home"] = GivenSetting(cache_home, str(cache_home), "XDG_CACHE_HOME")
    if path is not None:
        for name, value in load.load_settings(path).items():
            given[name] = GivenSetting(load.convert(name, value), value, str(path))
    for name, (variable, text) in env.read_environment(environ).items():
        given[name] = GivenSetting(load.convert(name, text, shown_as=variable), text, variable)
    for name, value in flags.items():
        load.check_name(name)
        if value is not None:
            shown = flag_names.get(name)
            converted = load.convert(name, value, shown_as=shown)
            given[name] = GivenSetting(converted, value, shown or "flag")
    return given


def resolve_engine(config: EngineConfig, machine: Machine) -> EngineConfig:
    """Turn `auto` and None into values: device, threads, and how keys and values are stored.

    `isa`, `memory_bytes` and `max_model_len` stay None: the kernels know the CPU, the memory plan
    knows the model.
    """
    device = config.device
    if device == "auto":
        device = "cpu" if importlib.util.find_spec(EXTENSION) is not None else "reference"
    return replace(
        config,
        device=device,
        num_threads=config.num_threads or machine.num_cores,
        kv_cache_dtype="bf16" if config.kv_cache_dtype == "auto" else config.kv_cache_dtype,
    )


def _with_adapter_room(config: Config) -> Config:
    """Room for adapters that a server loads while it runs, unless somebody said how much."""
    if not config.server.allow_runtime_adapters or config.engine.adapter_memory_bytes is not None:
        return config
    engine = replace(config.engine, adapter_memory_bytes=DEFAULT_ADAPTER_MEMORY_BYTES)
    return replace(config, engine=engine)
