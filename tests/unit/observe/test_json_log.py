"""Log records as JSON, those of an engine process too."""

from __future__ import annotations

import io
import json
import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from headrace.engine.engine_process import log_line
from headrace.engine.frames import FrameSocket
from headrace.engine.worker import LinkHandler
from headrace.observe.json_log import JsonFormatter


class Log:
    """A logger of its own, and what it wrote."""

    def __init__(self, name: str) -> None:
        self.text = io.StringIO()
        self.handler = logging.StreamHandler(self.text)
        self.handler.setFormatter(JsonFormatter())
        self.logger = logging.getLogger(name)
        self.logger.handlers, self.logger.propagate = [self.handler], False
        self.logger.setLevel(logging.INFO)

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.getvalue().splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log("headrace.test_json_log")
    yield made
    made.logger.handlers.clear()


def test_an_entry_is_one_line_with_its_fields(log: Log) -> None:
    fields = {"request_id": "r\n1", "status": None, "error": ValueError("x")}
    log.logger.info('two\nlines "%s"', "🌊", extra={"fields": fields})
    log.logger.debug("not wanted")
    (entry,) = log.entries()
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "info",
        "logger": "headrace.test_json_log",
        "message": 'two\nlines "🌊"',
        "request_id": "r\n1",
        "status": None,
        "error": "x",
    }


def test_what_is_no_text_is_written_all_the_same() -> None:
    record = logging.makeLogRecord({"msg": "a name \udc80", "levelname": "INFO"})
    entry = json.loads(JsonFormatter().format(record).encode("utf-8"))
    assert entry["message"] == "a name \udc80"


def test_a_traceback_stays_in_its_entry(log: Log) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        log.logger.exception("it failed")
    (entry,) = log.entries()
    assert (entry["level"], entry["message"]) == ("error", "it failed")
    assert entry["exception"].endswith("ValueError: broken")


def test_what_the_engine_process_logs_comes_as_it_was_there(log: Log) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = logging.getLogger("headrace.test_json_log.engine")
        sender.handlers, sender.propagate = [LinkHandler(FrameSocket(theirs))], False
        try:
            raise KeyError("step")
        except KeyError:
            sender.error("a step %s", "failed", exc_info=True)
        sender.handlers, sender.propagate = [], True
        (line,) = FrameSocket(ours).receive(10)
    log_line(line, 42)
    (entry,) = log.entries()
    assert (entry["level"], entry["message"]) == ("error", "a step failed")
    assert (entry["process"], entry["process_id"]) == ("engine", 42)
    assert entry["exception"].endswith("KeyError: 'step'")
