"""Fixtures that several folders share: the real model files, fetched once into the model store."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import httpx
import hypothesis
import pytest

from headrace.config.resolve import resolve_config
from headrace.hub.model_store import ModelStore

# A run in the background of a shell ignores Ctrl-C, and the programs under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Examples are the same in every run: what fails in one fails in the next; `make test-all` draws
# anew. How long one takes says nothing on a machine that stands still now and then.
hypothesis.settings.register_profile(
    "anew",
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "repeatable", hypothesis.settings.get_profile("anew"), derandomize=True
)
hypothesis.settings.load_profile("repeatable")


# Two workers share the cores: torch's threads, which compute what is expected, do not wait busily.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


# A client of httpx reads the certificates of the whole web, 70 ms, also for plain HTTP; tests make
# thousands. What the programs under test do, in processes of their own, is left as it is.
httpx._transports.default.create_ssl_context = cache(httpx.create_ssl_context)  # type: ignore[attr-defined]


# Two workers take files in turn: whoever got a long one last would end alone. The longest first.
_LONG_FILES = (
    "e2e/test_soak.py",
    "models/test_real_models.py",
    "e2e/test_install.py",
    "consistency/test_engine.py",
    "kernels/test_attention.py",
    "e2e/test_bench.py",
    "consistency/test_feature_pairs.py",
    "consistency/test_scheduling.py",
    "e2e/test_examples.py",
    "e2e/test_startup.py",
    "http/test_fuzz.py",
    "e2e/test_batches.py",
    "e2e/test_responses_client.py",
    "e2e/test_cli.py",
    "e2e/test_reproduce.py",
    "e2e/test_faults.py",
    "consistency/test_real_model.py",
    "weights/test_gguf_real_models.py",
    "e2e/test_server.py",
    "kernels/test_sampling.py",
    "kernels/test_gated_linear.py",
    "e2e/test_tools.py",
    "e2e/test_accounts.py",
    "e2e/test_many_models.py",
)
_HOME_DATABASE = (
    resolve_config(flags={}, environ=os.environ, config_file=None).hub.home / "headrace.db"
)
# Of someone who uses headrace here, or already told of.
_KNOWN_DATABASES = [_HOME_DATABASE] if _HOME_DATABASE.exists() else []
_RANKS = {name: rank for rank, name in enumerate(_LONG_FILES)}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _RANKS.get("/".join(item.path.parts[-2:]), len(_RANKS)))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Eleven thousand tests and what they import are not looked through by every collection."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """What tests store is in folders of their own: see to it that none uses the tester's home."""
    yield
    if _HOME_DATABASE.exists() and not _KNOWN_DATABASES:
        _KNOWN_DATABASES.append(_HOME_DATABASE)
        pytest.fail(f"{_HOME_DATABASE} is new: this test, or one beside it, has stored there.")


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
