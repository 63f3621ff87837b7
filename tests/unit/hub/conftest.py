"""Fixtures of the hub's tests: a server that misbehaves on request, a home that is empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.download_site import Site, open_site
from headrace.core.config import HubConfig


@pytest.fixture
def site() -> Iterator[Site]:
    with open_site() as site:
        yield site


@pytest.fixture
def config(tmp_path: Path) -> HubConfig:
    return HubConfig(home=tmp_path / "home", connect_timeout_s=30.0)
