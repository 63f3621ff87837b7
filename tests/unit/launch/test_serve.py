"""What `serve` refuses before it starts an engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.config.routing import make_routing
from headrace.core.config import Config, HubConfig, ServerConfig
from headrace.core.errors import ConfigError
from headrace.launch.serve import build

TIERS = {
    "upstreams": {"far": {"url": "http://127.0.0.1:9/v1"}},
    "tiers": {"cheap": {"backends": [{"model": "m", "upstream": "far"}]}},
}


@pytest.mark.parametrize("models", [[], ["a-model-that-nobody-has"]])
def test_served_names_beside_tiers(tmp_path: Path, models: list[str]) -> None:
    """Tiers have names of their own; a second kind of name would hide one of them."""
    config = Config(
        hub=HubConfig(home=tmp_path),
        server=ServerConfig(served_model_names=("one", "two")),
        routing=make_routing(TIERS),
    )
    with pytest.raises(ConfigError) as refused:
        build(config, models)
    error = refused.value
    assert (error.field, error.value) == ("server.served_model_names", "one, two")
    assert "none where there are tiers" in error.message
