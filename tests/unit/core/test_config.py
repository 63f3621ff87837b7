"""The records of settings refuse what cannot work, and name it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from headrace.core.config import Config, EngineConfig, HubConfig, ServerConfig, StoreConfig
from headrace.core.errors import ConfigError

TWO_GPUS = {"tensor_parallel_size": 2, "device": "cuda"}


def test_defaults() -> None:
    config = Config()
    assert config.engine.block_size == 32
    assert config.engine.enable_prefix_caching
    assert config.hub.home == Path.home() / ".cache" / "headrace"
    assert (config.server.host, config.server.port) == ("127.0.0.1", 8000)


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().engine.block_size = 16  # type: ignore[misc]


@pytest.mark.parametrize(
    ("record", "values", "field"),
    [
        (StoreConfig, {"database_url": "headrace.db"}, "store.database_url"),
        (StoreConfig, {"database_url": 3}, "store.database_url"),
        (StoreConfig, {"ledger": True}, "store.ledger"),
        (StoreConfig, {"max_waiting_rows": 0}, "store.max_waiting_rows"),
        (StoreConfig, {"max_spill_bytes": 0}, "store.max_spill_bytes"),
        (ServerConfig, {"require_key": 1}, "server.require_key"),
        (ServerConfig, {"protect_metrics": "no"}, "server.protect_metrics"),
        (EngineConfig, {"device": "gpu"}, "engine.device"),
        (EngineConfig, {"isa": "sse"}, "engine.isa"),
        (EngineConfig, {"tensor_parallel_size": 0}, "engine.tensor_parallel_size"),
        (EngineConfig, {"tensor_parallel_size": 2}, "engine.tensor_parallel_size"),
        (EngineConfig, {**TWO_GPUS, "device": "cpu"}, "engine.tensor_parallel_size"),
        (EngineConfig, {**TWO_GPUS, "draft_model": "a"}, "engine.draft_model"),
        (EngineConfig, {**TWO_GPUS, "adapters": ("a=/b",)}, "engine.adapters"),
        (EngineConfig, {"num_threads": 0}, "engine.num_threads"),
        (EngineConfig, {"num_threads": True}, "engine.num_threads"),
        (EngineConfig, {"num_threads": 2.0}, "engine.num_threads"),
        (EngineConfig, {"memory_bytes": 1000}, "engine.memory_bytes"),
        (EngineConfig, {"kv_cache_dtype": "int4"}, "engine.kv_cache_dtype"),
        (EngineConfig, {"canary": "shout"}, "engine.canary"),
        (EngineConfig, {"block_size": 33}, "engine.block_size"),
        (EngineConfig, {"block_size": True}, "engine.block_size"),
        (EngineConfig, {"max_model_len": 0}, "engine.max_model_len"),
        (EngineConfig, {"max_num_seqs": -1}, "engine.max_num_seqs"),
        (EngineConfig, {"max_num_seqs": None}, "engine.max_num_seqs"),
        (EngineConfig, {"max_num_batched_tokens": 63}, "engine.max_num_batched_tokens"),
        (EngineConfig, {"max_mixed_prompt_tokens": 0}, "engine.max_mixed_prompt_tokens"),
        (EngineConfig, {"max_waiting_requests": 0}, "engine.max_waiting_requests"),
        (EngineConfig, {"enable_prefix_caching": 1}, "engine.enable_prefix_caching"),
        (EngineConfig, {"eager": "no"}, "engine.eager"),
        (EngineConfig, {"policy": "lifo"}, "engine.policy"),
        (HubConfig, {"home": "/tmp"}, "hub.home"),  # noqa: S108 - a text where a path belongs
        (HubConfig, {"offline": "yes"}, "hub.offline"),
        (HubConfig, {"connect_timeout_s": 0}, "hub.connect_timeout_s"),
        (HubConfig, {"connect_timeout_s": float("nan")}, "hub.connect_timeout_s"),
        (ServerConfig, {"host": ""}, "server.host"),
        (ServerConfig, {"port": 65536}, "server.port"),
        (ServerConfig, {"served_model_names": ["a"]}, "server.served_model_names"),
        (ServerConfig, {"served_model_names": ("a", "a")}, "server.served_model_names"),
        (ServerConfig, {"default_max_tokens": 0}, "server.default_max_tokens"),
        (ServerConfig, {"max_body_bytes": 1}, "server.max_body_bytes"),
        (ServerConfig, {"max_total_body_bytes": 16 * 2**20 - 1}, "server.max_total_body_bytes"),
        (ServerConfig, {"shutdown_timeout_s": -1}, "server.shutdown_timeout_s"),
        (ServerConfig, {"log_level": "loud"}, "server.log_level"),
    ],
)
def test_refuses(record: type, values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as failure:
        record(**values)
    assert failure.value.field == field
    assert failure.value.allowed
