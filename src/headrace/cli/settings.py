"""How a command gets its settings: the options every command shares, and `load_config`.

In: flags of the command. Out: a resolved `Config`; logging starts at its level, on stderr.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from headrace.config.machine import detect_machine
from headrace.config.resolve import resolve_config
from headrace.core.config import Config
from headrace.observe.json_log import JsonFormatter

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML file with settings.", show_default=False),
]

# How settings are written as flags, where it is not --field-name.
_FLAG_NAMES = {
    "engine.memory_bytes": "--memory",
    "engine.num_threads": "--threads",
    "engine.encoder_dtype": "--dtype",
    "engine.adapters": "--lora",
    "engine.adapter_memory_bytes": "--adapter-memory",
    "server.served_model_names": "--served-model-name",
    "server.cors_origins": "--cors-origin",
    "server.idle_unload_s": "--idle-unload",
    "server.log_level": "--quiet",
    "store.database_url": "--database",
}

# Third-party loggers speak only when asked for debugging.
_QUIET = (
    "uvicorn.error",
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "huggingface_hub",
    "filelock",
    "asyncio",
)


def load_config(
    config_file: Path | None = None,
    flags: Mapping[str, object] | None = None,
    is_server: bool = False,
) -> Config:
    """Settle all settings for a command: flag, then environment, then file, then default.

    `flags` maps dotted names (`engine.num_threads`) to values; None means that it was not given.
    A server logs at the level of the settings; other commands keep to warnings unless debugging.
    Raises: ConfigError.
    """
    # A first set-up, so that warnings about the settings themselves are seen.
    _configure_logging("warning")
    config = resolve_config(
        flags=flags or {},
        environ=os.environ,
        config_file=config_file,
        flag_names={name: flag_name(name) for name in flags or {}},
    )
    level = config.server.log_level
    _configure_logging("warning" if level == "info" and not is_server else level)
    if is_server and config.server.log_format == "json":
        _log_json()
    _warn_of_threads(config.engine.num_threads, level)
    return config


def flag_name(setting: str) -> str:
    """How a setting is written on the command line."""
    field = setting.partition(".")[2]
    return _FLAG_NAMES.get(setting, "--" + field.replace("_", "-"))


def _warn_of_threads(num_threads: int | None, level: str) -> None:
    """More threads than the machine runs at once take turns, and the kernels wait for the last."""
    if num_threads is None or level == "error":
        return
    machine = detect_machine()
    if num_threads > machine.num_cpus:
        cores = "1 core" if machine.num_cores == 1 else f"{machine.num_cores} cores"
        typer.echo(
            f"warning: {num_threads} threads on {cores}: more threads than cores make it slower. "
            "Leave --threads (HEADRACE_NUM_THREADS) out for one per core.",
            err=True,
        )


def _log_json() -> None:
    """From here on every line of the log is an object, warnings of libraries too."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonFormatter())
    logging.captureWarnings(True)


def _configure_logging(level: str) -> None:
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(levelname)s %(name)s: %(message)s",
        force=True,
    )
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
