"""A receiver in the settings needs the extra."""

from __future__ import annotations

import sys

import pytest

from headrace.core.config import Config, ServerConfig
from headrace.core.errors import ConfigError
from headrace.launch.open_traces import open_traces


def test_nothing_is_opened_unless_asked() -> None:
    assert open_traces(Config()) is None


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "headrace.observe.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    config = Config(server=ServerConfig(otlp_endpoint="http://localhost:4318"))
    with pytest.raises(ConfigError, match=r"`\.venv/bin/pip install -e '\.\[otel\]'` installs"):
        open_traces(config)


@pytest.mark.parametrize("endpoint", ["localhost:4318", "grpc://x:1", "http://x/v1/traces", ""])
def test_a_wrong_endpoint(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="otlp_endpoint"):
        ServerConfig(otlp_endpoint=endpoint)
