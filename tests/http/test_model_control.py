"""Loading and unloading models over HTTP, and who may."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fakes.asgi_client import Reply, exchange
from fakes.fake_clock import FakeClock
from fakes.pooled_models import BUDGET, Files
from fakes.served_app import FixedMetrics
from headrace.core.config import ServerConfig
from headrace.core.stores import ApiKey, Scope
from headrace.economics.accounts import Accounts
from headrace.launch.model_pool import ModelPool
from headrace.server.app import HeadraceApp
from headrace.server.services import Services
from headrace.store.key_ring import StoredKey, StoredKeys, hash_secret

BODY = b'{"model": "b", "prompt": "hi"}'
JSON = {"content-type": "application/json"}
ROUTES = (
    ("POST", "/sleep"),
    ("POST", "/wake_up"),
    ("GET", "/is_sleeping"),
    ("POST", "/v1/models/a/reload"),
    ("POST", "/pause"),
    ("POST", "/resume"),
    ("GET", "/is_paused"),
    ("POST", "/reset_prefix_cache"),
    ("GET", "/server_info"),
)


@asynccontextmanager
async def serving(accounts: Accounts | None = None) -> AsyncIterator[tuple[HeadraceApp, Files]]:
    """Two models that do not fit together."""
    files = Files({"a": 60, "b": 60})
    pool = ModelPool(files.models(), BUDGET, FakeClock())
    app = HeadraceApp(
        Services(pool, ServerConfig(), FixedMetrics(), "9", accounts=accounts or Accounts())
    )
    await pool.start()
    try:
        yield app, files
    finally:
        await pool.stop()


async def call(app: HeadraceApp, method: str, path: str, **headers: str) -> Reply:
    return await exchange(app, method, path, b"", headers)


async def sleeps(app: HeadraceApp, query: str = "") -> bool:
    reply = await call(app, "GET", f"/is_sleeping{query}")
    assert reply.status == 200
    return b"true" in reply.body


async def test_a_request_loads_its_model_and_both_are_listed() -> None:
    async with serving() as (app, _):
        reply = await exchange(app, "POST", "/v1/completions", BODY, JSON)
        assert (reply.status, b"b0!" in reply.body) == (200, True)
        listed = await call(app, "GET", "/v1/models")
        assert listed.body.count(b'"object":"model"') == 2
        assert (await sleeps(app, "?model=a"), await sleeps(app, "?model=b")) == (True, False)


async def test_sleep_and_wake_up() -> None:
    async with serving() as (app, files):
        assert not await sleeps(app)
        assert (await call(app, "POST", "/sleep?level=1")).status == 200
        assert await sleeps(app)
        assert (await call(app, "GET", "/health")).status == 200
        assert (await call(app, "POST", "/wake_up?model=b")).status == 200
        assert (await sleeps(app, "?model=a"), await sleeps(app, "?model=b")) == (True, False)
        assert (await call(app, "POST", "/sleep?model=b")).status == 200
        assert (await call(app, "POST", "/wake_up")).status == 200
        assert not await sleeps(app, "?model=a")
        assert len(files.engines["a"]) == 2


async def test_pause_and_resume() -> None:
    async with serving() as (app, files):
        assert (await call(app, "GET", "/is_paused")).body == b'{"is_paused":false}'
        paused = await call(app, "POST", "/pause?mode=wait&model=a")
        assert (paused.status, paused.body) == (200, b'{"status":"paused"}')
        assert (await call(app, "GET", "/is_paused?model=a")).body == b'{"is_paused":true}'
        assert (await call(app, "GET", "/is_paused")).body == b'{"is_paused":false}'
        health = await call(app, "GET", "/health")
        assert (health.status, b"The server is paused" in health.body) == (503, True)
        assert health.headers["retry-after"]
        # What comes meanwhile is taken, and waits in the engine.
        asked = await exchange(app, "POST", "/v1/completions", BODY.replace(b"b", b"a", 1), JSON)
        assert asked.status == 200
        resumed = await call(app, "POST", "/resume")
        assert (resumed.status, resumed.body) == (200, b'{"status":"resumed"}')
        assert (await call(app, "GET", "/health")).status == 200
        for query in ("mode=keep", "wait_for_inflight_requests=true", "clear_cache=FALSE", ""):
            assert (await call(app, "POST", f"/pause?{query}")).status == 200
        assert files.engines["a"][0].orders == ["wait", "resume", "keep", "wait", "abort", "abort"]


async def test_reset_prefix_cache() -> None:
    async with serving() as (app, files):
        assert (await call(app, "POST", "/reset_prefix_cache")).body == b'{"success":true}'
        files.engines["a"][0].num_running = 1
        assert (await call(app, "POST", "/reset_prefix_cache")).body == b'{"success":false}'
        query = "?reset_running_requests=true&model=a"
        assert (await call(app, "POST", f"/reset_prefix_cache{query}")).body == b'{"success":true}'
        files.engines["a"][0].num_running = 0


async def test_server_info() -> None:
    async with serving() as (app, _):
        found = json.loads((await call(app, "GET", "/server_info")).body)
        assert (found["version"], found["headrace_config"]) == ("9", "")
        shown = [(row["id"], row["is_loaded"], row["is_paused"]) for row in found["models"]]
        assert shown == [("a", True, False), ("b", False, False)]
        one = json.loads((await call(app, "GET", "/server_info?model=b&config_format=json")).body)
        assert ([row["id"] for row in one["models"]], one["headrace_config"]) == (["b"], {})


async def test_reload() -> None:
    async with serving() as (app, files):
        assert (await call(app, "POST", "/v1/models/a/reload")).status == 200
        assert len(files.engines["a"]) == 2
        files.faults = {"a"}
        reply = await call(app, "POST", "/v1/models/a/reload")
        assert reply.status == 500
        assert b"a could not be loaded: a is damaged" in reply.body


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/sleep?level=7", 400),
        ("POST", "/sleep?model=nope", 404),
        ("POST", "/wake_up?model=nope", 404),
        ("POST", "/v1/models/nope/reload", 404),
        ("GET", "/sleep", 405),
        ("POST", "/pause?mode=now", 400),
        ("POST", "/pause?clear_cache=maybe", 400),
        ("POST", "/pause?model=nope", 404),
        ("POST", "/resume?model=nope", 404),
        ("GET", "/is_paused?model=nope", 404),
        ("GET", "/pause", 405),
        ("POST", "/reset_prefix_cache?reset_external=true", 400),
        ("POST", "/reset_prefix_cache?model=nope", 404),
        ("GET", "/server_info?config_format=xml", 400),
        ("GET", "/server_info?model=nope", 404),
        ("GET", "/v1/models/a/reload", 404),
        ("POST", "/sleep?mode=abort", 400),
        ("GET", "/debug/requests?modle=a", 400),
        ("GET", "/server_info?modle=a", 400),
        ("GET", "/is_paused?modle=a", 400),
        ("GET", "/is_sleeping?modle=a", 400),
    ],
)
async def test_wrong_calls(method: str, path: str, status: int) -> None:
    async with serving() as (app, _):
        assert (await call(app, method, path)).status == status


ORDERS = ("/sleep", "/wake_up", "/pause", "/resume", "/reset_prefix_cache", "/v1/models/a/reload")


@pytest.mark.parametrize("path", ORDERS)
async def test_what_is_not_understood_does_nothing(path: str) -> None:
    """A name that is misspelt, or a body, would else mean every model."""
    async with serving() as (app, files):
        misspelt = await call(app, "POST", f"{path}?modle=b")
        twice = await call(app, "POST", f"{path}?model=b&model=a")
        assert (misspelt.status, twice.status) == (400, 400)
        assert b"The query has 'modle'; allowed: " in misspelt.body
        with_body = await exchange(app, "POST", path, b'{"model": "b"}', JSON)
        assert (with_body.status, b"reads its query and no body" in with_body.body) == (400, True)
        assert not await sleeps(app, "?model=a")
        assert [engine.orders for engine in files.engines["a"]] == [[]]
        assert (await exchange(app, "POST", path, b"{}", JSON)).status == 200


async def test_tags_of_vllm_are_taken_and_named() -> None:
    async with serving() as (app, _):
        reply = await call(app, "POST", "/wake_up?tags=weights&model=b")
        assert (reply.status, reply.headers["x-headrace-warnings"]) == (200, "tags")
        assert not await sleeps(app, "?model=b")


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(("scope", "may"), [("inference", False), ("admin", True)])
async def test_only_an_admin_may(method: str, path: str, scope: Scope, may: bool) -> None:
    key = ApiKey(id="k", name="k", tenant="t", scopes=(scope,))
    accounts = Accounts(keys=StoredKeys([StoredKey(key, hash_secret("hr_k"))]))
    async with serving(accounts) as (app, _):
        reply = await call(app, method, path, authorization="Bearer hr_k")
        assert reply.status == (200 if may else 403)
        assert (await call(app, method, path)).status == 401


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_web_page_may_not(method: str, path: str) -> None:
    async with serving() as (app, _):
        reply = await call(app, method, path, origin="https://evil.example.org")
        assert reply.status == 403
        assert not await sleeps(app)


async def test_a_request_waits_while_its_model_is_loaded() -> None:
    async with serving() as (app, files):
        files.gate.clear()
        waiting = asyncio.create_task(exchange(app, "POST", "/v1/completions", BODY, JSON))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        files.gate.set()
        assert (await waiting).status == 200
