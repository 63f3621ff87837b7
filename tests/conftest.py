"""Fixtures that several folders share: the real model files, fetched once into the model store."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from headrace.config.resolve import resolve_config
from headrace.hub.model_store import ModelStore

# A run in the background of a shell ignores Ctrl-C, and the programs under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Files of minutes. Two workers take files in turn: whoever got one of these last would end alone.
_LONG_FILES = ("test_soak.py", "test_real_models.py", "test_install.py", "test_real_model.py")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _LONG_FILES)


def local_model(name: str) -> Path:
    """Path of a named model, fetched when it is not there yet."""
    store = ModelStore(resolve_config(flags={}, environ=os.environ, config_file=None).hub)
    return store.pull(name, lambda progress: None).path


@pytest.fixture(scope="session")
def qwen05_path() -> Path:
    return local_model("qwen2.5-coder:0.5b")


@pytest.fixture(scope="session")
def qwen15_path() -> Path:
    return local_model("qwen2.5-coder:1.5b")


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    return local_model("all-minilm-l6-v2")


@pytest.fixture(scope="session")
def gemma_path() -> Path:
    return local_model("gemma3:270m")
