"""`GET /debug/requests` over a pool of models: who waits for a model, who runs, who may look."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from test_model_control import BODY, JSON, call, serving

from fakes.asgi_client import exchange
from fakes.fake_backend import FakeBackend
from fakes.served_app import FixedMetrics
from headrace.core.config import ServerConfig
from headrace.core.request import GenerateRequest
from headrace.core.stores import ApiKey, Scope
from headrace.economics.accounts import Accounts
from headrace.server.app import HeadraceApp
from headrace.server.services import Services
from headrace.store.key_ring import StoredKey, StoredKeys, hash_secret

PATH = "/debug/requests"


async def look(app: HeadraceApp, query: str = "") -> dict[str, Any]:
    reply = await call(app, "GET", PATH + query)
    assert reply.status == 200
    body: dict[str, Any] = json.loads(reply.body)
    return body


async def test_a_request_that_waits_for_its_model() -> None:
    async with serving() as (app, files):
        body = await look(app)
        assert [(row["model"], row["status"]) for row in body["models"]] == [
            ("a", "ready"),
            ("b", "unloaded"),
        ]
        files.gate.clear()
        headers = JSON | {"x-request-id": "mine"}
        waiting = asyncio.create_task(exchange(app, "POST", "/v1/completions", BODY, headers))
        while not (rows := (await look(app, "?model=b"))["data"]):
            await asyncio.sleep(0)
        (row,) = rows
        assert (row["request_id"], row["model"], row["tenant"]) == ("mine", "b", "default")
        assert (row["state"], row["waits_for"]) == ("loading", "model")
        assert row["why"] == "its model is being loaded"
        assert (await look(app, "?model=a"))["data"] == []
        files.gate.set()
        assert (await waiting).status == 200
        assert (await look(app))["data"] == []
        assert (await call(app, "GET", f"{PATH}?model=nope")).status == 404


async def test_a_request_that_waits_for_requests_of_another_model() -> None:
    async with serving() as (app, _):
        backend = app.services.backend
        request = GenerateRequest(request_id="r", model="a", prompt="hi")
        stream = await backend.generate(request)
        headers = JSON | {"x-request-id": "mine"}
        waiting = asyncio.create_task(exchange(app, "POST", "/v1/completions", BODY, headers))
        async with asyncio.timeout(60):
            while [row["waits_for"] for row in (await look(app, "?model=b"))["data"]] != ["room"]:
                await asyncio.sleep(0)  # until it waits, a minute at the most
        (row,) = (await look(app, "?model=b"))["data"]
        assert row["state"] == "loading"
        assert row["why"] == "waits until requests of a end (the memory does not hold all models)"
        assert [output async for output in stream]
        assert (await waiting).status == 200
        assert (await look(app))["data"] == []


@pytest.mark.parametrize(
    ("scope", "may"), [("inference", False), ("metrics", False), ("admin", True)]
)
async def test_only_an_admin_may(scope: Scope, may: bool) -> None:
    key = ApiKey(id="k", name="k", tenant="t", scopes=(scope,))
    accounts = Accounts(keys=StoredKeys([StoredKey(key, hash_secret("hr_k"))]))
    async with serving(accounts) as (app, _):
        reply = await call(app, "GET", PATH, authorization="Bearer hr_k")
        assert reply.status == (200 if may else 403)
        assert (await call(app, "GET", PATH)).status == 401


async def test_a_backend_that_does_not_say() -> None:
    app = HeadraceApp(Services(FakeBackend(), ServerConfig(), FixedMetrics(), "9"))
    assert (await call(app, "GET", PATH)).status == 404
