"""`headrace serve`: a model behind the OpenAI-compatible API."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import socket
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.generation import (
    CanaryOption,
    DraftAcceptanceOption,
    DraftModelOption,
    IsaOption,
    KVCacheDtypeOption,
    LookupPastOption,
    LoraOption,
    MemoryOption,
    NoPullOption,
    QuantizationOption,
    SpeculativeOption,
    ThreadsOption,
    find_model,
    missing_models,
)
from headrace.cli.settings import ConfigOption, load_config
from headrace.config.env import read_secret
from headrace.core.config import DEFAULT_MODEL, Config
from headrace.core.errors import ConfigError, HeadraceError, ModelNotFound
from headrace.core.process_name import SERVER, name_process
from headrace.core.units import format_bytes
from headrace.hub.model_store import ModelStore
from headrace.launch.engine_start import start_engine
from headrace.launch.several_models import check_several
from headrace.server.listener import listen
from headrace.server.tls import load_certificate
from headrace.weights.adapter_files import check_adapters

logger = logging.getLogger(__name__)

_NO_KEYS = (
    "warning: {host} can be reached from other machines and there is no API key, so anyone who "
    "reaches it can use the model. `headrace keys create NAME` makes one; --require-key does not "
    "start without."
)


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="Name from `headrace models`, GGUF file or Hugging Face folder; several share the "
            "memory and are loaded when asked for, the first at the start. "
            f"[default: {DEFAULT_MODEL}]",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="HOST", help="Address to listen on. Default: 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="Port to listen on; 0 takes a free one. Default: 8000."),
    ] = None,
    served_model_name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Name that clients use for the model; may be repeated. Default: its own.",
        ),
    ] = None,
    default_max_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Answer length if a request names none. Default: what the context leaves.",
        ),
    ] = None,
    memory: MemoryOption = None,
    max_num_seqs: Annotated[
        int | None, typer.Option(metavar="N", help="Requests in one step. Default: 64.")
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens in one step. Default: 512.")
    ] = None,
    max_mixed_prompt_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Tokens of prompts in a step that goes on with answers too. Default: 128.",
        ),
    ] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(metavar="N", help="Longest prompt plus answer. Default: the model's."),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Database of API keys and usage. Default: headrace.db in the home folder.",
        ),
    ] = None,
    ledger: Annotated[
        str | None,
        typer.Option(
            metavar="MODE",
            help="A row of usage per call: on, off, or auto, once there is a key. Default: auto.",
        ),
    ] = None,
    require_key: Annotated[
        bool, typer.Option("--require-key", help="Do not start while there is no API key.")
    ] = False,
    adapter_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Room for adapters that are loaded later. Default: none, or 256MiB with "
            "--allow-runtime-adapters.",
        ),
    ] = None,
    allow_runtime_adapters: Annotated[
        bool,
        typer.Option(
            "--allow-runtime-adapters",
            help="Load and unload LoRA adapters over HTTP, by keys with the scope admin.",
        ),
    ] = False,
    idle_unload: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Unload a model that nobody asked for so long. Default: it stays.",
        ),
    ] = None,
    ssl_certfile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM file with the certificate: serve HTTPS."),
    ] = None,
    ssl_keyfile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM file with its key, when it is another file."),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Web page that may call from a browser, such as https://app.example.org, or *; "
            "may be repeated. Default: none.",
        ),
    ] = None,
    unknown_fields: Annotated[
        str | None,
        typer.Option(
            metavar="MODE",
            help="What has no effect in a request, such as a misspelt field: warn names it in a "
            "header, error refuses the request. Default: warn.",
        ),
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT", help="The log on stderr: text, or json, an object per line."
        ),
    ] = None,
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="OpenTelemetry receiver, such as http://localhost:4318, for traces and metrics of "
            "calls. Default: none.",
        ),
    ] = None,
    tensor_parallel_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="GPUs that the model is divided over, with HEADRACE_DEVICE=cuda. Default: 1.",
        ),
    ] = None,
    threads: ThreadsOption = None,
    isa: IsaOption = None,
    kv_cache_dtype: KVCacheDtypeOption = None,
    quantization: QuantizationOption = None,
    canary: CanaryOption = None,
    speculative: SpeculativeOption = None,
    draft_model: DraftModelOption = None,
    draft_acceptance: DraftAcceptanceOption = None,
    lookup_past_tokens: LookupPastOption = None,
    lora: LoraOption = None,
    chat_template: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Jinja template for chats. Default: the model's own."),
    ] = None,
    no_pull: NoPullOption = False,
    config_file: ConfigOption = None,
) -> None:
    """Serve models over HTTP, with the APIs of OpenAI and Anthropic.

    A model of the catalogue that is not on this machine is fetched first. Ctrl-C or SIGTERM lets
    running requests finish; the second one ends at once.
    """
    flags = {
        "server.host": host,
        "server.port": port,
        "server.served_model_names": tuple(served_model_name) if served_model_name else None,
        "server.default_max_tokens": default_max_tokens,
        "server.idle_unload_s": idle_unload,
        "server.allow_runtime_adapters": allow_runtime_adapters or None,
        "engine.adapter_memory_bytes": adapter_memory,
        "server.require_key": require_key or None,
        "server.ssl_certfile": ssl_certfile,
        "server.ssl_keyfile": ssl_keyfile,
        "server.cors_origins": tuple(cors_origin) if cors_origin else None,
        "server.unknown_fields": unknown_fields,
        "server.log_format": log_format,
        "server.otlp_endpoint": otlp_endpoint,
        "store.database_url": database,
        "store.ledger": ledger,
        "engine.memory_bytes": memory,
        "engine.max_num_seqs": max_num_seqs,
        "engine.max_num_batched_tokens": max_num_batched_tokens,
        "engine.max_mixed_prompt_tokens": max_mixed_prompt_tokens,
        "engine.max_model_len": max_model_len,
        "engine.tensor_parallel_size": tensor_parallel_size,
        "engine.num_threads": threads,
        "engine.isa": isa,
        "engine.kv_cache_dtype": kv_cache_dtype,
        "engine.quantization": quantization,
        "engine.canary": canary,
        "engine.speculative": speculative,
        "engine.draft_model": draft_model,
        "engine.draft_acceptance": draft_acceptance,
        "engine.lookup_past_tokens": lookup_past_tokens,
        "engine.adapters": tuple(lora) if lora else None,
        "engine.chat_template": chat_template,
    }
    name_process(SERVER)
    config = load_config(config_file, flags, is_server=True)
    models = _models_of(config, models or [])
    check_several(config, models)
    _check_keys(config)
    _check_adapter_room(config)
    certificate = load_certificate(config.server)
    # The address is taken before anything slow, so that a port in use is known at once.
    listener = _listen(config, models, may_pull=not no_pull)
    with listener:
        check_adapters(config.engine)
        _check_template(config, models)
        _check_database(config)
        for model in models:
            try:
                find_model(config, model, may_pull=not no_pull)
            except ModelNotFound as error:
                raise _naming_tier(error, config, model) from None
        # The plans of several are made before the first of them is loaded.
        starting = start_engine(config, models[0]) if len(models) == 1 else None
        # The engine process loads the model while this one loads the server.
        serving = importlib.import_module("headrace.server.run")
        is_loopback = importlib.import_module("headrace.server.origins").is_loopback
        served = importlib.import_module("headrace.launch.serve").build(config, models, starting)
        app = served.app
        if app.services.accounts.keys.is_open and not is_loopback(config.server.host):
            _say(config, _NO_KEYS.format(host=config.server.host))
        names = ", ".join(app.services.models())
        for line in (*served.memory_plans, f"model {names}"):
            _say(config, line)
        address = serving.address_of(listener, has_tls=certificate is not None)
        ready = f"ready at {address}/v1 (Ctrl-C stops)"
        asyncio.run(serving.serve_app(app, listener, lambda: _say(config, ready), certificate))


def _listen(config: Config, models: list[str], *, may_pull: bool) -> socket.socket:
    """Take the address; where that fails, models that are not there are told with it.

    Raises: ConfigError.
    """
    try:
        return listen(config.server.host, config.server.port)
    except ConfigError as error:
        found = [error.hint]
        for model in models:
            try:
                missing_models(config, model, may_pull=may_pull)
            except HeadraceError as other:
                found.append(other.message)
        hint = " ".join(filter(None, dict.fromkeys(found)))
        raise ConfigError(error.field, error.value, error.allowed, hint) from None


def _models_of(config: Config, given: list[str]) -> list[str]:
    """The models to run here: those that were named, and those that tiers have here.

    Raises: ModelNotFound.
    """
    if config.routing is None:
        return given or [DEFAULT_MODEL]
    names = given + [name for name in config.routing.local_models if name not in given]
    # A file may go by its path and by its name.
    store = ModelStore(config.hub)
    known: dict[str, str] = {}
    for name in names:
        try:
            known.setdefault(store.resolve(name).name, name)
        except ModelNotFound:
            known.setdefault(name, name)
    return list(known.values())


def _naming_tier(error: ModelNotFound, config: Config, model: str) -> HeadraceError:
    """The same error, with the tier whose model it is."""
    for tier in () if config.routing is None else config.routing.tiers:
        if any(each.model == model and each.upstream is None for each in tier.backends):
            allowed = "models that run here, or an upstream beside model"
            return ConfigError(f"tiers.{tier.name}.backends", model, allowed, error.message)
    return error


def _check_keys(config: Config) -> None:
    """Raises: ConfigError for an upstream's key that is not there, before a model is loaded."""
    for upstream in config.routing.upstreams if config.routing is not None else ():
        if upstream.key_variable is not None:
            read_secret(upstream.key_variable, os.environ, f"upstreams.{upstream.name}.api_key")


def _check_adapter_room(config: Config) -> None:
    """Raises: ConfigError for memory that no adapter can come to use."""
    engine = config.engine
    has_adapters = config.server.allow_runtime_adapters or engine.adapters
    if engine.adapter_memory_bytes and not has_adapters:
        raise ConfigError(
            "engine.adapter_memory_bytes",
            format_bytes(engine.adapter_memory_bytes),
            "nothing without adapters",
            "Name one with --lora NAME=PATH, allow them with --allow-runtime-adapters, or leave "
            "it out.",
        )


def _check_template(config: Config, models: list[str]) -> None:
    """Raises: ConfigError for a template that cannot be used, before a model is loaded."""
    file = config.engine.chat_template
    if file is None:
        return
    if len(models) > 1:
        reason = "Each of several models has its own."
        raise ConfigError("engine.chat_template", file, "a file beside one model alone", reason)
    importlib.import_module("headrace.engine.model_text").read_template(file)


def _check_database(config: Config) -> None:
    """Raises: ConfigError for a named file that is none and cannot be made."""
    url = config.store.database_url or ""
    # What the store imports would hold up the engine of a server that is all right.
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).is_file():
        importlib.import_module("headrace.store.database").open_database(url, config.hub.home)


def _say(config: Config, text: str) -> None:
    """Tell people what the server does, in the form of the log."""
    if config.server.log_format == "json":
        logger.info("%s", text)
    else:
        typer.echo(text, err=True)
