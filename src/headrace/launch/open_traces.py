"""Opens the way to an OpenTelemetry receiver, where the settings name one."""

from __future__ import annotations

import importlib

from headrace.core.config import Config
from headrace.core.errors import ConfigError
from headrace.core.extras import install_command
from headrace.core.tracing import SpanSink
from headrace.core.version import headrace_version

# Imports the SDK, a quarter of a second.
_SINK = "headrace.observe.otel:OpenTelemetrySink"


def open_traces(config: Config) -> SpanSink | None:
    """Where spans go; None where nobody wants them.

    Raises: ConfigError where the extra is not installed.
    """
    endpoint = config.server.otlp_endpoint
    if endpoint is None:
        return None
    module, _, name = _SINK.partition(":")
    try:
        made: SpanSink = getattr(importlib.import_module(module), name)(
            endpoint, headrace_version()
        )
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        hint = f"`{install_command('otel')}` installs it."
        allowed = "nothing while OpenTelemetry is not installed"
        raise ConfigError("server.otlp_endpoint", endpoint, allowed, hint) from None
    return made
