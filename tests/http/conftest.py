"""A real server on a free port, over FakeBackend, for real clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fakes.served_app import RunningServer, run_server


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with run_server() as running:
        yield running
