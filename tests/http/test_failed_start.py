"""A server whose start fails: the caller gets the error, and the log no traceback of it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fakes.fake_backend import FakeBackend
from fakes.served_app import FixedMetrics
from headrace.core.config import ServerConfig
from headrace.core.errors import ModelFileError
from headrace.server.app import HeadraceApp
from headrace.server.listener import listen
from headrace.server.run import serve_app
from headrace.server.services import Services


def app_that_fails(error: Exception) -> HeadraceApp:
    @asynccontextmanager
    async def fail() -> AsyncIterator[None]:
        raise error
        yield

    return HeadraceApp(Services(FakeBackend(), ServerConfig(), FixedMetrics(), "9"), fail)


async def test_an_error_that_a_person_can_mend(caplog: pytest.LogCaptureFixture) -> None:
    app = app_that_fails(ModelFileError("a.safetensors is damaged."))
    ready: list[None] = []
    with listen("127.0.0.1", 0) as listener, pytest.raises(ModelFileError, match="is damaged"):
        await serve_app(app, listener, lambda: ready.append(None))
    assert not ready
    assert not caplog.records


async def test_an_error_of_the_program_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with listen("127.0.0.1", 0) as listener, pytest.raises(SystemExit):
        await serve_app(app_that_fails(KeyError("a bug")), listener, lambda: None)
    assert "KeyError" in caplog.text
    assert not logging.getLogger("uvicorn.error").filters
