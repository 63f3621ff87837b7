"""Adapters over HTTP on a real engine: models of their own, loaded and unloaded while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from fakes.fake_clock import FakeClock
from fakes.random_adapter import write_adapter, write_random_adapter
from fakes.random_model import write_random_model
from fakes.served_app import RunningServer, run_server
from headrace.config.machine import detect_machine
from headrace.config.resolve import resolve_engine
from headrace.config.routing import make_routing
from headrace.core.config import EngineConfig, HubConfig, ServerConfig
from headrace.core.stores import ApiKey, Scope
from headrace.core.telemetry import NoMetrics
from headrace.economics.accounts import Accounts
from headrace.engine.started_model import start_model
from headrace.hub.model_store import ModelStore
from headrace.launch.local_engine import LocalEngine, finish_engine
from headrace.launch.model_builds import ModelBuilds, with_adapter
from headrace.launch.model_pool import ModelPool
from headrace.launch.pooled_model import PooledModel
from headrace.launch.tiers import Surroundings, open_tiers
from headrace.router.router import Router
from headrace.store.key_ring import StoredKey, StoredKeys, hash_secret

LAYERS = 2
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
ROOM_BYTES = 3 * 2**20


class Served:
    """A server of one model with room for few adapters, and the folder that they lie in."""

    def __init__(
        self,
        folder: Path,
        stack: ExitStack,
        wrap: Callable[[ModelPool], Any] = lambda pool: pool,
        **server: Any,
    ) -> None:
        self.folder = folder
        model = write_random_model(folder / "base", LAYERS)
        config = resolve_engine(
            EngineConfig(max_model_len=256, num_threads=1, adapter_memory_bytes=ROOM_BYTES),
            detect_machine(),
        )
        local = ModelStore(HubConfig(home=folder)).resolve(str(model))
        builds = ModelBuilds(folder)
        stack.callback(builds.close)

        def load() -> LocalEngine:
            started = start_model(model, config, 2**30)
            engine = finish_engine(started, local, config, cache_dir=folder)
            builds.add(local, engine.environment)
            return engine

        engine = load()
        info, num_bytes = engine.model_info, engine.total_bytes
        first = write_random_adapter(folder / "first", 1, LAYERS)
        self.pool = ModelPool(
            [PooledModel(info, num_bytes, load)],
            2 * num_bytes,
            FakeClock(),
            first=engine,
            adapters={"first": first},
        )
        self.server: RunningServer = stack.enter_context(
            run_server(
                wrap(self.pool),
                ServerConfig(**{"allow_runtime_adapters": True} | server),
                build_of=lambda name: with_adapter(builds, self.pool, name),
            )
        )
        self.run(self.pool.start())
        stack.callback(lambda: self.run(self.pool.stop()))
        self.client = stack.enter_context(self.server.client())

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.server.loop).result(60)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def answer(self, model: str) -> dict[str, Any]:
        reply = self.post(
            "/v1/completions",
            model=model,
            prompt="The river is wide, and the boats are",
            max_tokens=12,
            temperature=0,
            ignore_eos=True,
            receipt=True,
            return_token_ids=True,
        )
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def token_ids(self, model: str) -> list[int]:
        ids: list[int] = self.answer(model)["choices"][0]["token_ids"]
        return ids

    def names(self) -> list[str]:
        return [model["id"] for model in self.client.get("/v1/models").json()["data"]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with ExitStack() as stack:
        yield Served(tmp_path_factory.mktemp("adapters"), stack)


def test_an_adapter_is_listed_answers_and_is_in_the_receipt(served: Served) -> None:
    base, *_ = served.names()
    listed = {model["id"]: model for model in served.client.get("/v1/models").json()["data"]}
    assert (listed["first"]["parent"], listed["first"]["root"]) == (base, "first")
    assert listed[base]["parent"] is None
    answer = served.answer("first")
    assert answer["model"] == "first"
    assert answer["receipt"]["model"]["adapter"] == "first"
    assert len(answer["receipt"]["model"]["adapter_sha256"]) == 64
    assert served.answer(base)["receipt"]["model"]["adapter"] is None
    assert served.token_ids("first") != served.token_ids(base)


def test_behind_a_router_too(tmp_path: Path) -> None:
    def routed(pool: ModelPool) -> Router:
        settings = {"tiers": {"here": {"backends": [pool.models()[0].name]}},
                    "routing": {"default": "here"}}  # fmt: skip
        router, _ = open_tiers(
            make_routing(settings), pool, NoMetrics(), {}, Surroundings(Accounts())
        )
        return router

    with ExitStack() as stack:
        served = Served(tmp_path, stack, routed)
        path = str(write_random_adapter(tmp_path / "second", 2, LAYERS))
        taken = served.post(LOAD, lora_name="auto", lora_path=path)
        assert taken.status_code == 400
        assert taken.json()["error"]["message"].startswith("lora_name is 'auto'; allowed: a name")
        assert served.post(LOAD, lora_name="second", lora_path=path).status_code == 200
        assert {"auto", "first", "second"} <= set(served.names())
        assert served.token_ids("second") != served.token_ids("first")
        assert served.post(UNLOAD, lora_name="second").json()["deleted"] is True
        assert served.post(UNLOAD, lora_name="second").status_code == 404


def test_one_is_loaded_answers_is_kept_and_is_unloaded(served: Served) -> None:
    path = write_random_adapter(served.folder / "second", 2, LAYERS)
    before = served.token_ids("first")
    loaded = served.post(LOAD, lora_name="second", lora_path=str(path))
    assert (loaded.status_code, loaded.json()["id"]) == (200, "second")
    assert served.names()[1:] == ["first", "second"]
    second = served.token_ids("second")
    assert second not in (before, served.token_ids(served.names()[0]))
    served.run(served.pool.replace(served.names()[0]))  # another engine, the same adapters
    assert (served.token_ids("first"), served.token_ids("second")) == (before, second)
    assert served.post(UNLOAD, lora_name="second").json()["deleted"] is True
    assert served.names()[1:] == ["first"]
    gone = served.post("/v1/completions", model="second", prompt="hi")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
    assert served.token_ids("first") == before


def test_a_name_is_replaced_only_when_asked(served: Served) -> None:
    for number, seed in enumerate((3, 4)):
        write_random_adapter(served.folder / f"third{number}", seed, LAYERS)
    body = {"lora_name": "third", "lora_path": str(served.folder / "third0")}
    assert served.post(LOAD, **body).status_code == 200
    one = served.token_ids("third")
    body["lora_path"] = str(served.folder / "third1")
    refused = served.post(LOAD, **body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "lora_name")
    assert served.post(LOAD, **body, load_inplace=True).status_code == 200
    assert served.token_ids("third") != one
    assert served.post(UNLOAD, lora_name="third").status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"lora_path": "x"}, "lora_name"),
        ({"lora_name": "a b", "lora_path": "x"}, "lora_name"),
        ({"lora_name": "x"}, "lora_path"),
        ({"lora_name": "x", "lora_path": "/no/such/folder"}, "lora_path"),
        ({"lora_name": "x", "lora_path": "a\u0000b"}, "lora_path"),
        ({"lora_name": "x", "lora_path": "x", "base_model_name": "nobody"}, "model"),
    ],
)
def test_bad_fields_are_named(served: Served, body: dict[str, str], param: str) -> None:
    reply = served.post(LOAD, **body)
    assert reply.status_code in (400, 404)
    assert reply.json()["error"]["param"] == param


def test_what_does_not_fit_says_how_much_room_there_is(served: Served) -> None:
    path = write_random_adapter(served.folder / "large", 5, LAYERS, rank=64)
    reply = served.post(LOAD, lora_name="large", lora_path=str(path))
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "out_of_memory")
    assert "adapters may take 3" in reply.json()["error"]["message"]
    assert "large" not in served.names()
    other = write_adapter(served.folder / "other", {})
    reply = served.post(LOAD, lora_name="other", lora_path=str(other))
    assert reply.json()["error"]["code"] == "invalid_adapter"


def test_who_is_unknown_is_not_unloaded(served: Served) -> None:
    base, *loaded = served.names()
    for name, reason in (("nobody", "no adapter that is loaded"), (base, "a model and no adapter")):
        reply = served.post(UNLOAD, lora_name=name)
        error = reply.json()["error"]
        assert (reply.status_code, error["param"]) == (404, "lora_name")
        assert error["message"] == f"{name!r} is {reason}. Loaded: {', '.join(loaded)}."


def test_it_must_be_allowed_and_needs_the_scope_admin() -> None:
    body = {"lora_name": "x", "lora_path": "/x"}
    with run_server(config=ServerConfig()) as server, server.client() as client:
        for path in (LOAD, UNLOAD):
            reply = client.post(path, json=body)
            assert reply.status_code == 404
            assert "allow_runtime_adapters" in reply.json()["error"]["message"]
    scopes: tuple[Scope, ...] = ("inference",)
    key = ApiKey(id="k", name="k", tenant="t", scopes=scopes)
    accounts = Accounts(keys=StoredKeys([StoredKey(key, hash_secret("hr_k"))]))
    config = ServerConfig(allow_runtime_adapters=True)
    with run_server(config=config, accounts=accounts) as server, server.client() as client:
        for path in (LOAD, UNLOAD):
            reply = client.post(path, json=body, headers={"authorization": "Bearer hr_k"})
            assert reply.status_code == 403
            assert "admin" in reply.json()["error"]["message"]
