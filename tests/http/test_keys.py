"""The gate: with one key in the database every route but the probes asks for one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from starlette.routing import Route

from fakes.fake_backend import FakeBackend
from fakes.running_engine import running_engine
from fakes.served_app import RunningServer, run_server
from headrace.core.backend import Backend
from headrace.core.clock import SystemClock
from headrace.core.config import ServerConfig
from headrace.core.stores import NO_LIMITS
from headrace.economics.accounts import Accounts
from headrace.store.database import Database, default_url
from headrace.store.keys import KeyStore

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
OPEN = {"/", "/health", "/ping", "/version", "/metrics"}


@dataclass
class Keys:
    """Keys of a real database, and what a server knows of them."""

    store: KeyStore
    accounts: Accounts

    def make(self, name: str, *scopes: str, tenant: str | None = None) -> str:
        _, secret = self.store.create(name, tenant, scopes or ["inference"], NO_LIMITS)
        self.accounts.keys = self.store.ring()
        return secret


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    database = Database(default_url(tmp_path))
    database.create_file()
    yield Keys(KeyStore(database, SystemClock()), Accounts())
    database.close()


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def every_route(server: RunningServer) -> list[tuple[str, str]]:
    """Method and path of each route, and of some that do not exist."""
    routes = [route for route in server.app._router.routes if isinstance(route, Route)]
    assert len(routes) >= 9
    pairs = [
        (method, route.path.replace("{name:path}", "tiny"))
        for route in routes
        for method in sorted(route.methods or ())
    ]
    # Without its server httpx would take it for the name of one, and ask for "/".
    double = f"{server.address}//health"
    strange = ["/v1", "/health/", double, "/v1/chat/completions/", "/docs", "/debug/x"]
    return [*pairs, *(("GET", path) for path in strange), ("TRACE", CHAT), ("OPTIONS", CHAT)]


def call(client: httpx.Client, method: str, path: str, **headers: str) -> httpx.Response:
    return client.request(method, path, json=BODY if method == "POST" else None, headers=headers)


def test_every_route_is_behind_the_gate(keys: Keys) -> None:
    secret = keys.make("all", "inference", "metrics", "admin")
    with run_server(accounts=keys.accounts) as server, server.client() as client:
        for method, path in every_route(server):
            without = call(client, method, path)
            wrong = call(client, method, path, **bearer("hr_0123456789_wrong"))
            right = call(client, method, path, **bearer(secret))
            statuses = (without.status_code, wrong.status_code)
            assert statuses == ((200, 200) if path in OPEN else (401, 401)), (method, path)
            assert right.status_code not in (401, 403), (method, path)


def test_a_probe_without_a_key_is_not_told_what_is_served(keys: Keys) -> None:
    with run_server(accounts=keys.accounts) as server, server.client() as client:
        open_answer = client.get("/health", params={"model": "tinny"})
        keys.make("first")
        closed = client.get("/health", params={"model": "tinny"})
        assert client.get("/health", params={"model": "tiny"}).status_code == 200
    assert (open_answer.status_code, closed.status_code) == (404, 404)
    assert "Did you mean tiny?" in open_answer.json()["error"]["message"]
    text = "The model 'tinny' does not exist here. GET /v1/models lists them, with a key."
    assert closed.json()["error"]["message"] == text


def test_the_document_of_routes_says_which_need_a_key(keys: Keys) -> None:
    secret = keys.make("first")
    config = ServerConfig(port=0, protect_metrics=True)
    with run_server(config=config, accounts=keys.accounts) as server, server.client() as client:
        paths = client.get("/openapi.json", headers=bearer(secret)).json()["paths"]
        for path, by_method in paths.items():
            for method, operation in by_method.items():
                if "{" not in path:
                    answer = call(client, method.upper(), path)
                    assert bool(operation["security"]) == (answer.status_code == 401), path


def test_a_person_with_a_browser_sees_where_to_go(keys: Keys) -> None:
    """And what is served, where nobody needs a key to ask for it."""
    info = replace(FakeBackend().info, name="<b>tiny</b>")
    with run_server(FakeBackend(info=info), accounts=keys.accounts) as server:
        with server.client() as client:
            plain = client.get("/")
            away = client.get("/", headers={"host": 'here"<i>'})
            refused = client.get("/", headers={"host": "rebound.example.org"})
            keys.make("first")
            closed = client.get("/")
            assert client.head("/").status_code == 200
        assert plain.status_code == closed.status_code == 200
        assert plain.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in plain.headers["content-security-policy"]
        assert f"<code>{server.address}/v1</code>" in plain.text
        assert "No key is needed." in plain.text and "Authorization" not in plain.text
        assert "<code>&lt;b&gt;tiny&lt;/b&gt;</code> ready" in plain.text
        assert refused.status_code == 403
        assert "<i>" not in away.text
        assert "tiny" not in closed.text and "Authorization: Bearer KEY" in closed.text


def test_a_key_opens_what_its_scopes_name(keys: Keys) -> None:
    scopes = ("inference", "metrics", "admin")
    secrets = {scope: keys.make(scope, scope) for scope in scopes}
    needed = {"/load": "metrics", "/metrics": "metrics", "/debug/x": "admin", "/admin/x": "admin"}
    by_hand = (
        *("/sleep", "/wake_up", "/is_sleeping", "/v1/models/tiny/reload", "/debug/requests"),
        *("/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
        *("/pause", "/resume", "/is_paused", "/reset_prefix_cache", "/server_info"),
    )
    needed |= dict.fromkeys(by_hand, "admin")
    config = ServerConfig(port=0, protect_metrics=True)
    with run_server(config=config, accounts=keys.accounts) as server, server.client() as client:
        for method, path in every_route(server):
            if path in OPEN - {"/metrics"}:
                continue
            for scope in scopes:
                answer = call(client, method, path, **bearer(secrets[scope]))
                is_allowed = scope == needed.get(path, "inference")
                assert (answer.status_code != 403) == is_allowed, (method, path, scope)


def test_refusals_have_the_form_of_openai(keys: Keys) -> None:
    secret = keys.make("scraper", "metrics")
    with run_server(accounts=keys.accounts) as server, server.client() as client:
        refused = client.post(CHAT, json=BODY)
        forbidden = client.post(CHAT, json=BODY, headers=bearer(secret))
        with pytest.raises(openai.AuthenticationError):
            server.openai().chat.completions.create(**BODY)
        with pytest.raises(openai.PermissionDeniedError):
            server.openai(secret).chat.completions.create(**BODY)
        assert not server.backend.requests
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.headers["x-request-id"]
    for answer, code in ((refused, "invalid_api_key"), (forbidden, "insufficient_scope")):
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["param"], error["code"]) == (
            "invalid_request_error",
            None,
            code,
        )
        assert secret not in answer.text
    assert "--scope inference" in forbidden.json()["error"]["message"]


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER  {}"])
def test_ways_to_send_a_key(keys: Keys, form: str) -> None:
    secret = keys.make("a")
    with run_server(accounts=keys.accounts) as server, server.client() as client:
        headers = {"Authorization": form.format(secret)}
        assert client.get("/v1/models", headers=headers).status_code == 200
        assert client.get("/v1/models", headers={"x-api-key": secret}).status_code == 200
        basic = {"Authorization": f"Basic {secret}"}
        assert client.get("/v1/models", headers=basic).status_code == 401
        assert client.get(f"/v1/models?api_key={secret}").status_code == 401


def test_strange_headers_are_refused_and_nothing_more(keys: Keys) -> None:
    keys.make("a")
    source = random.Random(9)
    strange = [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer hr_",
        b"\xff\xfe",
        b"hr_\xc3\xa9_x",
        b"x" * 9000,
    ]
    strange += [bytes(source.choice(range(33, 256)) for _ in range(40)) for _ in range(40)]
    with run_server(accounts=keys.accounts) as server, server.client() as client:
        for value in strange:
            for name in ("Authorization", "x-api-key"):
                for prefix in (b"", b"Bearer "):
                    headers = {name.encode(): (prefix + value).strip()}
                    assert client.get("/v1/models", headers=headers).status_code == 401, headers
        twice = [("Authorization", "Basic x"), ("Authorization", f"Bearer {keys.make('b')}")]
        assert client.get("/v1/models", headers=twice).status_code == 401


def test_a_revoked_key_ends_at_once(keys: Keys) -> None:
    secret = keys.make("a")
    with run_server(accounts=keys.accounts) as server, server.client() as client:
        assert client.post(CHAT, json=BODY, headers=bearer(secret)).status_code == 200
        keys.store.revoke("a")
        keys.accounts.keys = keys.store.ring()
        assert client.post(CHAT, json=BODY, headers=bearer(secret)).status_code == 401


def test_a_server_that_demands_a_key_answers_nobody_without_one() -> None:
    config = ServerConfig(port=0, require_key=True)
    with run_server(config=config) as server, server.client() as client:
        assert client.post(CHAT, json=BODY).status_code == 401
        assert client.post(CHAT, json=BODY, headers=bearer("x")).status_code == 401
        assert client.get("/health").status_code == 200


def test_no_secret_reaches_the_log(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    secret = keys.make("a")
    with run_server(accounts=keys.accounts) as server, server.client() as client:
        client.post(CHAT, json=BODY, headers=bearer(secret))
        client.post(CHAT, json=BODY, headers=bearer(secret + "x"))
    assert "POST '/v1/chat/completions' 401" in caplog.text
    assert secret not in caplog.text


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_the_key_says_the_tenant_and_the_body_cannot(keys: Keys, path: str) -> None:
    secret = keys.make("ci", tenant="acme")
    body = BODY | {"prompt": ["a", "b"], "tenant": "other", "cache_salt": "mine"}
    with run_server(accounts=keys.accounts) as server, server.client() as client:
        assert client.post(path, json=body, headers=bearer(secret)).status_code == 200
        requests = server.backend.requests
    assert {(request.tenant, request.cache_salt) for request in requests} == {("acme", "mine")}


async def test_tenants_do_not_share_cached_prefixes(keys: Keys) -> None:
    """On the real engine's cache: a prompt is a hit for the keys of its tenant and no other."""
    one, same = keys.make("one", tenant="acme"), keys.make("same", tenant="acme")
    other = keys.make("other", tenant="rival")

    def cached_tokens(server: RunningServer, secret: str) -> int:
        body = {"model": "tiny", "prompt": "a prompt of many blocks", "max_tokens": 1}
        with server.client() as client:
            answer = client.post("/v1/completions", json=body, headers=bearer(secret))
        assert answer.status_code == 200, answer.text
        cached: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        return cached

    async with running_engine() as running:
        backend: Backend = running.backend
        with run_server(backend, accounts=keys.accounts) as server:
            counts = [cached_tokens(server, secret) for secret in (one, one, same, other, other)]
    assert [count > 0 for count in counts] == [False, True, True, False, True]


def test_without_keys_any_key_will_do() -> None:
    backend = FakeBackend()
    with run_server(backend) as server, server.client() as client:
        assert client.post(CHAT, json=BODY, headers=bearer("none")).status_code == 200
    assert backend.requests[0].tenant == "default"
