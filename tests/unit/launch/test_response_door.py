"""The database of responses: opened by the first of them, looked after when nobody asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.usage import eventually, open_database
from headrace.core.clock import SystemClock
from headrace.core.config import Config, HubConfig, StoreConfig
from headrace.core.errors import ConfigError
from headrace.core.responses import StoredResponse
from headrace.launch.response_door import ResponseDoor
from headrace.store.responses import StoredResponses

DAY_S = 24 * 3600.0


def config(folder: Path, days: int = 30) -> Config:
    return Config(hub=HubConfig(home=folder), store=StoreConfig(response_retention_days=days))


def make(name: str, age_days: float) -> StoredResponse:
    return StoredResponse(
        id=name,
        tenant="default",
        created_at_s=SystemClock().unix_s() - age_days * DAY_S,
        status="completed",
        body=b"{}",
        input_items=b"[]",
    )


def test_the_first_response_makes_the_database(tmp_path: Path) -> None:
    door = ResponseDoor(config(tmp_path))
    door.start()
    assert list(tmp_path.iterdir()) == []
    store = door.open()
    assert door.open() is store
    store.add(make("r1", 0))
    assert (tmp_path / "headrace.db").stat().st_mode & 0o777 == 0o600
    door.close()
    door.close()
    again = ResponseDoor(config(tmp_path)).open()
    assert again.find("default", "r1") is not None


def test_what_is_too_old_goes_though_nobody_asks(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    store = StoredResponses(database, SystemClock(), retention_days=400)
    store.add(make("old", 31))
    store.add(make("new", 29))
    door = ResponseDoor(config(tmp_path), first_sweep_s=0.01)
    door.start()
    eventually(lambda: store.find("default", "old") is None)
    assert store.find("default", "new") is not None
    door.close()
    database.close()


@pytest.mark.parametrize(("days", "is_wanted"), [(0, False), (1, True)])
def test_no_retention_keeps_nothing(tmp_path: Path, days: int, is_wanted: bool) -> None:
    assert ResponseDoor(config(tmp_path, days)).is_wanted is is_wanted


def test_a_retention_is_a_number_of_days() -> None:
    for wrong in (-1, 1.5, True, "30", 10**6):
        with pytest.raises(ConfigError, match="response_retention_days"):
            StoreConfig(response_retention_days=wrong)  # type: ignore[arg-type]
