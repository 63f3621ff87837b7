"""What is wrong with several models is said before anything is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from headrace.core.config import Config, HubConfig, ServerConfig, StoreConfig
from headrace.core.engine_config import EngineConfig
from headrace.core.errors import ConfigError
from headrace.launch.serve import build
from headrace.launch.several_models import check_several


def test_a_model_that_is_named_twice_makes_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.gguf").touch()
    (tmp_path / "other.gguf").touch()
    config = Config(
        hub=HubConfig(home=tmp_path / "home"),
        store=StoreConfig(database_url=f"sqlite:///{tmp_path}/new.db"),
    )
    check_several(config, ["./tiny.gguf", "./other.gguf"])
    names = ["./tiny.gguf", f"{tmp_path}/tiny.gguf"]
    with pytest.raises(ConfigError) as caught:
        build(config, names)
    assert caught.value.message == f"MODEL is {' '.join(names)!r}; allowed: each model once."
    assert not (tmp_path / "new.db").exists()


def test_models_that_are_not_here_yet_go_by_their_names(tmp_path: Path) -> None:
    config = Config(hub=HubConfig(home=tmp_path))
    check_several(config, ["gemma3:270m", "org/model"])
    with pytest.raises(ConfigError, match="each model once"):
        check_several(config, ["org/model", "gemma3:270m", "org/model"])


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"server": ServerConfig(served_model_names=("a",))}, "server.served_model_names"),
        ({"engine": EngineConfig(adapters=("a=b",))}, "engine.adapters"),
        ({"engine": EngineConfig(draft_model="a")}, "engine.draft_model"),
        (
            {"engine": EngineConfig(device="cuda", tensor_parallel_size=2)},
            "engine.tensor_parallel_size",
        ),
    ],
)
def test_what_one_model_alone_may_have(
    tmp_path: Path, settings: dict[str, object], field: str
) -> None:
    config = replace(Config(hub=HubConfig(home=tmp_path)), **settings)  # type: ignore[arg-type]
    check_several(config, ["gemma3:270m"])
    with pytest.raises(ConfigError) as caught:
        check_several(config, ["gemma3:270m", "org/model"])
    assert caught.value.field == field
