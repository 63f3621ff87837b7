"""A real engine process and its messages: what must not overtake what, and what cannot be told."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from fakes.random_adapter import write_random_adapter
from fakes.random_model import write_random_model
from fakes.scheduling import make_spec
from headrace.config.machine import detect_machine
from headrace.config.resolve import resolve_engine
from headrace.core.clock import SystemClock
from headrace.core.config import EngineConfig
from headrace.core.errors import ConfigError
from headrace.core.request import SamplingParams
from headrace.core.step import RequestProgress, StepReport
from headrace.core.structured_outputs import StructuredOutputs
from headrace.engine.engine_process import TERMINAL_SIGNALS, EngineProcess
from headrace.engine.messages import (
    AdapterLoaded,
    AdapterUnloaded,
    EngineReply,
    LoadAdapter,
    OrderDone,
    PauseEngine,
    StartEngine,
    Stop,
    Submit,
    UnloadAdapter,
)
from headrace.engine.supervisor import StartedProcess, Supervisor

MEMORY_BYTES = 400 * 1024**2
SETTINGS = EngineConfig(
    num_threads=1,
    memory_bytes=MEMORY_BYTES,
    adapter_memory_bytes=16 * 1024**2,
    stall_timeout_s=1.0,
    max_restarts=100,
)


def order_for(path: Path, cache: Path) -> StartEngine:
    settings = resolve_engine(SETTINGS, detect_machine())
    return StartEngine(str(path), settings, MEMORY_BYTES, str(cache), 30)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    """As after a restart: no form was seen yet."""
    model = write_random_model(tmp_path / "model", num_layers=1)
    process = EngineProcess(order_for(model, tmp_path / "cache"))
    try:
        yield process
    finally:
        process.close()


def replies_until(engine: EngineProcess, kind: type) -> list[Any]:
    """Everything up to the first reply of a kind and what came together with it."""
    seen: list[Any] = []
    deadline_s = time.monotonic() + 120
    while not any(isinstance(reply, kind) for reply in seen):
        assert time.monotonic() < deadline_s, seen
        seen += engine.receive(1.0)
    return seen


def test_nothing_about_all_requests_overtakes_one_whose_form_is_compiled(
    engine: EngineProcess, tmp_path: Path
) -> None:
    """Else its adapter would be gone when it comes, and a pause reached that it belongs to."""
    path = write_random_adapter(tmp_path / "adapter", num_layers=1)
    engine.wait_ready(120.0)
    engine.send(LoadAdapter(0, str(path)))
    (loaded,) = replies_until(engine, AdapterLoaded)
    assert loaded.error is None
    sampling = SamplingParams(structured_outputs=StructuredOutputs(choice=["yes", "no"]))
    begun = {"output_token_ids": tuple(b"y"), "adapter": loaded.sha256}
    engine.send(Submit(make_spec("r", (1, 2, 3), sampling=sampling, **begun)))
    engine.send(UnloadAdapter(loaded.sha256))
    engine.send(PauseEngine(7, keeps_running=False, clears_cache=False))
    seen = replies_until(engine, OrderDone)
    reports = [reply for reply in seen if isinstance(reply, StepReport)]
    ends: list[RequestProgress] = [
        row for report in reports for row in report.progress if row.finish_reason is not None
    ]
    assert [(row.finish_reason, row.error) for row in ends] == [("stop", None)]
    assert any(isinstance(reply, AdapterUnloaded) for reply in seen)


def test_an_engine_that_stands_still_over_an_adapter_is_started_again(
    engine: EngineProcess, tmp_path: Path
) -> None:
    """Also when no request waits: whoever loads it does."""
    path = write_random_adapter(tmp_path / "adapter", num_layers=1)
    ready = engine.wait_ready(120.0)
    order = order_for(tmp_path / "model", tmp_path / "cache")
    supervisor = Supervisor(StartedProcess(engine, order, ready, 1.0), SystemClock())
    os.kill(engine.id, signal.SIGSTOP)
    supervisor.send(LoadAdapter(0, str(path)))
    replies: list[EngineReply] = []
    reader = Thread(target=lambda: replies.extend(supervisor.receive()), daemon=True)
    reader.start()
    reader.join(60)
    supervisor.send(Stop())
    reader.join(60)
    supervisor.join(60)
    (loaded,) = replies
    assert isinstance(loaded, AdapterLoaded)
    assert loaded.error is None


def test_signals_of_the_terminal_are_left_to_the_parent(engine: EngineProcess) -> None:
    """From the first moment on: a child that still loads would die of them, with a traceback."""
    for number in TERMINAL_SIGNALS:
        os.kill(engine.id, number)
    engine.wait_ready(120.0)
    for number in TERMINAL_SIGNALS:
        os.kill(engine.id, number)
    engine.send(Stop())
    assert engine.close(120.0) == "ended with code 0"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_a_path_that_is_no_text_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="allowed: UTF-8"):
        EngineProcess(order_for(tmp_path / "\udcff.gguf", tmp_path))
