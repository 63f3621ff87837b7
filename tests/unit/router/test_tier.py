"""The order in which the backends of a tier are asked."""

from __future__ import annotations

import pytest

from fakes.fake_backend import FakeBackend
from fakes.fake_clock import FakeClock
from headrace.core.backend import Health
from headrace.core.errors import ModelNotFound
from headrace.core.routing_config import TierBackendConfig, TierConfig
from headrace.router.health import HealthBook
from headrace.router.tier import MAX_AHEAD, Member, Tier

KEYS = [f"key {number}" for number in range(60)]


class Replicas:
    """Three backends that are asked in turns, and what is known of them."""

    def __init__(self, order: str = "least-busy") -> None:
        self.health = HealthBook(FakeClock())
        self.backends = {name: FakeBackend() for name in ("a", "b", "c")}
        members = tuple(Member(name, each, "tiny") for name, each in self.backends.items())
        configs = tuple(TierBackendConfig(model=name) for name in self.backends)
        self.tier = Tier(TierConfig(name="t", backends=configs, order=order), members)  # type: ignore[arg-type]

    def names(self, key: str = "") -> list[str]:
        return [member.name for member in self.tier.in_order(self.health, key)]

    def first(self, key: str) -> str:
        return self.names(key)[0]


def test_requests_of_a_key_go_to_one_backend_and_keys_to_all() -> None:
    replicas = Replicas()
    homes = {key: replicas.first(key) for key in KEYS}
    assert set(homes.values()) == {"a", "b", "c"}
    for name in ("a", "b", "c"):
        replicas.health.begin(name)
        assert {key: replicas.first(key) for key in KEYS} == homes
        assert all(sorted(replicas.names(key)) == ["a", "b", "c"] for key in KEYS)
    assert Replicas().names() == ["a", "b", "c"]


@pytest.mark.parametrize("gone", ["a", "b", "c"])
def test_a_backend_that_is_away_loses_its_keys_and_gets_them_back(gone: str) -> None:
    replicas = Replicas()
    homes = {key: replicas.first(key) for key in KEYS}
    replicas.backends[gone].state = Health("dead", "gone")
    moved = {key: replicas.first(key) for key in KEYS}
    assert gone not in moved.values()
    assert {key for key in KEYS if moved[key] != homes[key]} == {
        key for key in KEYS if homes[key] == gone
    }
    replicas.backends[gone].state = Health("ready")
    assert {key: replicas.first(key) for key in KEYS} == homes


def test_a_key_with_many_requests_is_spread_after_all() -> None:
    replicas = Replicas()
    home = replicas.first("busy")
    for _ in range(MAX_AHEAD):
        replicas.health.begin(home)
        assert replicas.first("busy") == home
    replicas.health.begin(home)
    assert replicas.names("busy")[-1] == home


def test_an_order_that_is_listed_is_kept() -> None:
    replicas = Replicas("first")
    assert {tuple(replicas.names(key)) for key in KEYS} == {("a", "b", "c")}


class Pool(FakeBackend):
    """Models in one backend, each with a health of its own."""

    def __init__(self, healths: dict[str, Health | None]) -> None:
        super().__init__()
        self.healths = healths

    def health_of(self, name: str) -> Health | None:
        if name not in self.healths:
            raise ModelNotFound(name)
        return self.healths[name]


def test_a_model_that_is_away_is_last_although_another_of_its_backend_answers() -> None:
    paused = Health("paused", is_recovering=True)
    pool = Pool({"paused": paused, "ready": Health("ready"), "unloaded": None})
    assert pool.health().status == "ready"
    models = ("paused", "gone", "unloaded", "ready")
    members = tuple(Member(name, pool, name) for name in models)
    configs = tuple(TierBackendConfig(model=name) for name in models)
    tier = Tier(TierConfig(name="t", backends=configs, order="first"), members)
    names = [member.name for member in tier.in_order(HealthBook(FakeClock()))]
    assert names == ["unloaded", "ready", "paused", "gone"]
