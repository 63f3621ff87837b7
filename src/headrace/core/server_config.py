"""The HTTP server, as settings.

In: values of the right type. Out: ServerConfig, checked on construction. Opens nothing: whether a
port is free or a file is there is found out by whoever uses it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

from headrace.core.config_checks import (
    check_boolean,
    check_bytes,
    check_choice,
    check_integer,
    check_number,
)
from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
UnreadParameters = Literal["error", "warn"]
UnknownFields = Literal["warn", "error"]

_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
_ENDPOINT = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?(?<!/v1/traces)")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?")


@frozen(kw_only=True)
class ServerConfig:
    """The HTTP server.

    Fields:
        host, port: address to listen on; port 0 takes a free one.
        served_model_names: names clients may use, the first is shown; empty is the model's own.
        default_max_tokens: answer length if a request names none; None is what the context leaves.
        max_body_bytes: larger request bodies are refused.
        max_total_body_bytes: bodies of all requests that are received or answered at a time; None
            is 16 times max_body_bytes. As much again is for lines of batches.
        max_json_depth: lists and objects that a request body may nest.
        max_json_objects: lists and objects that a request body may have in all; names in objects
            are eight times as many.
        max_prompts: prompts that one completions request may carry.
        unread_parameters: `reasoning_effort`, `verbosity` and `thinking`, where the model's chat
            template does not read them: `error` refuses the request; `warn` answers without, and
            names them in the header `x-headrace-warnings` and in the log.
        unknown_fields: fields of a request that nobody defines or that have no effect, and names in
            a query that its route does not read: `warn` names them in the header
            `x-headrace-warnings` and in the log; `error` refuses the request.
        body_timeout_s: a request body that has not arrived by then is refused.
        request_timeout_s: an answer that is not complete by then is stopped.
        heartbeat_s: a stream that has nothing to say that long sends a comment line.
        shutdown_timeout_s: how long running requests may finish after a stop signal.
        max_file_bytes: larger files are not taken at `/v1/files`.
        max_tenant_file_bytes: files of one tenant together.
        max_tenant_batches: batches of one tenant that are not finished.
        max_batch_requests: answers of batches in progress at once, of all tenants together.
        allow_runtime_adapters: load and unload LoRA adapters while the server runs, with the routes
            of vLLM, by keys with the scope admin.
        idle_unload_s: a model that nobody asked for so long gives its memory back, and is loaded
            when the next request comes; None keeps it.
        require_key: do not start, and answer nobody, while there is no API key.
        protect_metrics: `/metrics` needs a key with the scope metrics, once there are keys.
        ssl_certfile: PEM file with the certificate and its chain; the server speaks HTTPS with it.
        ssl_keyfile: PEM file with its private key; None looks for it in ssl_certfile.
        cors_origins: web pages that may call from a browser, such as `https://app.example.org`;
            `*` is every page, empty none.
        allowed_hosts: names that clients may call the server by; empty is any, but on a loopback
            address without keys only addresses and names without a dot (against DNS rebinding).
        header_timeout_s: a connection on which no complete request head came by then is closed.
        write_timeout_s: a client that takes nothing of its answer that long is cut off.
        max_connections: open at a time; None is what the open-file limit leaves.
        tenant_metrics: tenants that have series of their own in `/metrics`, those seen first; all
            others are counted as `other`. 0 counts none.
        old_metric_names: metrics that had another name have that too.
        otlp_endpoint: OpenTelemetry receiver (OTLP over HTTP), such as `http://localhost:4318`:
            calls are sent there as traces and gen_ai metrics; needs the extra `otel`. None sends
            nothing.
        trace_sample_ratio: share of calls that are traced, where their caller does not decide it.
        log_level: detail of the log on stderr.
        log_format: `text` for people, or `json`, an object per line.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    served_model_names: tuple[str, ...] = ()
    default_max_tokens: int | None = None
    max_body_bytes: int = 16 * 1024**2
    max_total_body_bytes: int | None = None
    max_json_depth: int = 64
    max_json_objects: int = 32_768
    max_prompts: int = 256
    unread_parameters: UnreadParameters = "error"
    unknown_fields: UnknownFields = "warn"
    body_timeout_s: float = 30.0
    request_timeout_s: float = 3600.0
    heartbeat_s: float = 5.0
    shutdown_timeout_s: float = 10.0
    max_file_bytes: int = 512 * 1024**2
    max_tenant_file_bytes: int = 10 * 1024**3
    max_tenant_batches: int = 100
    max_batch_requests: int = 16
    allow_runtime_adapters: bool = False
    idle_unload_s: float | None = None
    require_key: bool = False
    protect_metrics: bool = False
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    header_timeout_s: float = 10.0
    write_timeout_s: float = 60.0
    max_connections: int | None = None
    tenant_metrics: int = 0
    old_metric_names: bool = False
    otlp_endpoint: str | None = None
    trace_sample_ratio: float = 1.0
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"

    def __post_init__(self) -> None:
        if not isinstance(self.host, str) or not self.host:
            raise ConfigError("server.host", self.host, "a host name or address")
        check_integer("server.port", self.port, 0, 65535)
        names = self.served_model_names
        if not isinstance(names, tuple) or not all(
            isinstance(name, str) and name for name in names
        ):
            raise ConfigError("server.served_model_names", names, "a list of non-empty names")
        if len(set(names)) != len(names):
            raise ConfigError("server.served_model_names", names, "each name once")
        check_integer(
            "server.default_max_tokens", self.default_max_tokens, 1, 2**24, is_optional=True
        )
        check_bytes("server.max_body_bytes", self.max_body_bytes, 1024, 2**32)
        total = self.max_total_body_bytes
        if total is not None:
            least = self.max_body_bytes
            check_bytes("server.max_total_body_bytes", total, least, 2**40)
        check_integer("server.max_json_depth", self.max_json_depth, 4, 256)
        check_integer("server.max_json_objects", self.max_json_objects, 64, 2**24)
        check_integer("server.max_prompts", self.max_prompts, 1, 2**16)
        unread = self.unread_parameters
        check_choice("server.unread_parameters", unread, get_args(UnreadParameters))
        check_choice("server.unknown_fields", self.unknown_fields, get_args(UnknownFields))
        check_number("server.body_timeout_s", self.body_timeout_s, 0.1, 3600.0)
        check_number("server.request_timeout_s", self.request_timeout_s, 0.1, 2**24)
        check_number("server.heartbeat_s", self.heartbeat_s, 0.01, 3600.0)
        check_number("server.shutdown_timeout_s", self.shutdown_timeout_s, 0.0, 3600.0)
        check_bytes("server.max_file_bytes", self.max_file_bytes, 1024, 2**40)
        check_bytes("server.max_tenant_file_bytes", self.max_tenant_file_bytes, 1024, 2**50)
        check_integer("server.max_tenant_batches", self.max_tenant_batches, 1, 2**20)
        check_integer("server.max_batch_requests", self.max_batch_requests, 1, 4096)
        check_boolean("server.allow_runtime_adapters", self.allow_runtime_adapters)
        if self.idle_unload_s is not None:
            check_number("server.idle_unload_s", self.idle_unload_s, 1.0, 2**24)
        check_boolean("server.require_key", self.require_key)
        check_boolean("server.protect_metrics", self.protect_metrics)
        self._check_reach()
        check_number("server.header_timeout_s", self.header_timeout_s, 0.1, 3600.0)
        check_number("server.write_timeout_s", self.write_timeout_s, 0.1, 3600.0)
        check_integer("server.max_connections", self.max_connections, 1, 2**20, is_optional=True)
        check_integer("server.tenant_metrics", self.tenant_metrics, 0, 10_000)
        check_boolean("server.old_metric_names", self.old_metric_names)
        endpoint = self.otlp_endpoint
        if endpoint is not None and not _ENDPOINT.fullmatch(endpoint):
            allowed = "http://HOST:PORT or https://..., without /v1/traces"
            raise ConfigError("server.otlp_endpoint", endpoint, allowed)
        check_number("server.trace_sample_ratio", self.trace_sample_ratio, 0.0, 1.0)
        check_choice("server.log_level", self.log_level, get_args(LogLevel))
        check_choice("server.log_format", self.log_format, get_args(LogFormat))

    @property
    def most_body_bytes(self) -> int:
        """`max_total_body_bytes`, as it is or derived."""
        return self.max_total_body_bytes or 16 * self.max_body_bytes

    def _check_reach(self) -> None:
        """TLS files, and the names of pages and hosts."""
        for field_name in ("ssl_certfile", "ssl_keyfile"):
            path = getattr(self, field_name)
            if path is not None and not isinstance(path, Path):
                raise ConfigError(f"server.{field_name}", path, "a file path")
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            shown = str(self.ssl_keyfile)
            raise ConfigError(
                "server.ssl_keyfile", shown, "a key together with server.ssl_certfile"
            )
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                allowed = "origins as browsers send them, such as https://app.example.org, or *"
                raise ConfigError("server.cors_origins", origin, allowed)
        for host in self.allowed_hosts:
            if not _HOST.fullmatch(host):
                allowed = "host names in lower case, without scheme and port"
                raise ConfigError("server.allowed_hosts", host, allowed)
