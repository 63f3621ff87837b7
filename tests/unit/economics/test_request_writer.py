"""The writer of stored requests: beside the calls, bounded, and loud about what it loses."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from fakes.running_engine import Recorder
from fakes.usage import eventually
from headrace.core.errors import StoreError
from headrace.core.stored_requests import StoredRequest
from headrace.economics import request_writer
from headrace.economics.request_writer import RequestWriter


def call(name: str = "a", size_bytes: int = 1) -> StoredRequest:
    return StoredRequest(
        request_id=name,
        tenant="t",
        created_at_s=0.0,
        operation="/",
        model="m",
        body={},
        answers=(),
        receipt={},
        size_bytes=size_bytes,
    )


class Table:
    """Keeps what it is given; waits at its gate, fails while it has an error."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.num_sweeps = 0
        self.is_waiting = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.error: StoreError | None = None

    def append(self, requests: Sequence[StoredRequest]) -> None:
        self.is_waiting.set()
        assert self.gate.wait(60)
        if self.error is not None:
            raise self.error
        self.rows += [request.request_id for request in requests]

    def sweep(self) -> int:
        self.num_sweeps += 1
        return 0


def start(table: Table) -> tuple[RequestWriter, Recorder]:
    metrics = Recorder()
    writer = RequestWriter(table, metrics)
    writer.start()
    return writer, metrics


def count(metrics: Recorder, name: str) -> float:
    return metrics.counters.get(f"headrace:requests_{name}_total", 0)


def test_what_waits_at_the_end_is_written() -> None:
    table = Table()
    writer, metrics = start(table)
    names = [str(number) for number in range(120)]
    for name in names:
        writer.append(call(name))
    writer.close()
    writer.close()
    assert table.rows == names
    assert (count(metrics, "stored"), count(metrics, "not_stored")) == (120, 0)
    assert table.num_sweeps == 1
    writer.append(call("late"))
    assert count(metrics, "not_stored") == 1


@pytest.mark.parametrize(("size_bytes", "room"), [(1, 5), (100, 2)])
def test_calls_never_wait_for_the_database(
    monkeypatch: pytest.MonkeyPatch, size_bytes: int, room: int
) -> None:
    monkeypatch.setattr(request_writer, "MAX_WAITING", 5)
    monkeypatch.setattr(request_writer, "MAX_WAITING_BYTES", 250)
    table = Table()
    table.gate.clear()
    writer, metrics = start(table)
    writer.append(call("first"))
    assert table.is_waiting.wait(60)
    for number in range(8):
        writer.append(call(str(number), size_bytes))
    assert count(metrics, "not_stored") == 8 - room
    table.gate.set()
    writer.close()
    assert table.rows == ["first", *map(str, range(room))]


def test_a_database_that_fails_loses_calls_and_the_next_are_written(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = Table()
    table.error = StoreError("db", "is gone.")
    writer, metrics = start(table)
    for number in (1, 2):
        writer.append(call())
        eventually(lambda number=number: count(metrics, "not_stored") == number)  # type: ignore[misc]
    table.error = None
    writer.append(call("kept"))
    writer.close()
    assert table.rows == ["kept"]
    assert caplog.text.count("is gone") == 1
