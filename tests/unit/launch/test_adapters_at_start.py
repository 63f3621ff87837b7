"""Adapters of the settings that cannot be used: told before the weights of the model are read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.random_adapter import write_random_adapter
from fakes.random_model import write_random_model
from headrace.config.machine import detect_machine
from headrace.config.resolve import resolve_engine
from headrace.core.config import Config
from headrace.core.engine_config import EngineConfig
from headrace.core.errors import HeadraceError, ModelFileError
from headrace.engine.started_model import start_model
from headrace.launch.backends import open_engine

LAYERS = 1
MEMORY = 300 << 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("start") / "model", LAYERS)


def missing(folder: Path) -> str:
    return "does not exist. Give a PEFT folder"


def deeper(folder: Path) -> str:
    write_random_adapter(folder, num_layers=LAYERS + 1)
    return "layers.1"


def of_another_kind(folder: Path) -> str:
    file = write_random_adapter(folder, num_layers=LAYERS) / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"peft_type": "IA3"}))
    return "is a PEFT adapter of type 'IA3'"


@pytest.mark.parametrize("make", [missing, deeper, of_another_kind])
def test_what_is_wrong_is_told_before_weights_are_read(
    make: object, model: Path, tmp_path: Path
) -> None:
    said = make(tmp_path / "adapter")  # type: ignore[operator]
    engine = EngineConfig(
        adapters=(f"a={tmp_path / 'adapter'}",), memory_bytes=MEMORY, num_threads=1
    )
    stages: list[str] = []
    with pytest.raises(HeadraceError, match=said):
        open_engine(
            str(model), Config(engine=engine), progress=lambda stage, _: stages.append(stage)
        )
    assert "loading" not in stages


def test_a_later_engine_does_without_those_that_are_gone(model: Path, tmp_path: Path) -> None:
    """They may have been unloaded since; who asks for one is told."""
    stays = write_random_adapter(tmp_path / "stays", num_layers=LAYERS)
    config = EngineConfig(adapters=(f"stays={stays}",), memory_bytes=MEMORY, num_threads=1)
    engine = resolve_engine(config, detect_machine())
    gone = replace(engine, adapters=(f"gone={tmp_path / 'gone'}", *engine.adapters))
    with pytest.raises(ModelFileError, match="gone does not exist"):
        start_model(model, gone, MEMORY)
    found = []
    for settings, is_first in ((engine, True), (gone, False)):
        started = start_model(model, settings, MEMORY, is_first=is_first)
        started.finish_packing()
        found.append(started.capacity.adapter_bytes)
        started.close()
        started.reader.close()
    assert found[0] == found[1] > 0
