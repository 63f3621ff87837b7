"""Browsers at a real server: CORS in front of the gate, and names it does not answer to."""

from __future__ import annotations

from pathlib import Path

from fakes.served_app import run_server
from headrace.core.clock import SystemClock
from headrace.core.config import ServerConfig
from headrace.core.stores import NO_LIMITS
from headrace.economics.accounts import Accounts
from headrace.store.database import Database, default_url
from headrace.store.keys import KeyStore

CHAT = "/v1/chat/completions"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
PAGE = "https://app.example.org"
ASKED = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


def test_cors_is_off_by_default() -> None:
    with run_server() as server, server.client() as client:
        asked = client.options(CHAT, headers=ASKED)
        answered = client.post(CHAT, json=BODY, headers={"Origin": PAGE})
    assert (asked.status_code, asked.headers["allow"]) == (405, "POST")
    for reply in (asked, answered):
        assert not [name for name in reply.headers if name.startswith("access-control")]


def test_a_page_that_is_named_gets_through_to_the_gate_and_no_further(tmp_path: Path) -> None:
    database = Database(default_url(tmp_path))
    database.create_file()
    store = KeyStore(database, SystemClock())
    _, secret = store.create("page", None, ["inference"], NO_LIMITS)
    config = ServerConfig(cors_origins=(PAGE,))
    accounts = Accounts(keys=store.ring())
    with run_server(config=config, accounts=accounts) as server, server.client() as client:
        asked = client.options(CHAT, headers=ASKED)
        stranger = client.options(CHAT, headers=ASKED | {"Origin": "https://evil.example"})
        refused = client.post(CHAT, json=BODY, headers={"Origin": PAGE})
        bearer = {"Authorization": f"Bearer {secret}"}
        answered = client.post(CHAT, json=BODY, headers=bearer | {"Origin": PAGE})
        streamed = client.post(CHAT, json=BODY | {"stream": True}, headers=bearer | ASKED)
        foreign = client.post(CHAT, json=BODY, headers=bearer | {"Origin": "https://evil.example"})
    database.close()
    assert (asked.status_code, asked.content) == (204, b"")
    assert asked.headers["access-control-allow-headers"] == "authorization,content-type"
    assert asked.headers["x-request-id"]
    statuses = [reply.status_code for reply in (stranger, refused, answered, streamed, foreign)]
    assert statuses == [401, 401, 200, 200, 200]
    for reply in (asked, refused, answered, streamed):
        assert reply.headers["access-control-allow-origin"] == PAGE
    for reply in (stranger, foreign):
        assert "access-control-allow-origin" not in reply.headers


def test_a_rebound_name_is_refused_on_every_route() -> None:
    with run_server() as server, server.client() as client:
        for method, path in (("GET", "/v1/models"), ("POST", CHAT), ("GET", "/debug/x")):
            evil = client.request(method, path, json=BODY, headers={"Host": "evil.example:8000"})
            assert evil.status_code == 403, path
            assert "server.allowed_hosts" in evil.json()["error"]["message"]
        assert not server.backend.requests
        assert client.get("/v1/models", headers={"Host": "localhost:9"}).status_code == 200


def test_a_page_cannot_send_json_without_asking_first() -> None:
    """A browser sends these types across sites without a preflight; none of them is taken."""
    with run_server() as server, server.client() as client:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            sent = client.post(CHAT, content=b"{}", headers={"content-type": kind, "Origin": PAGE})
            assert sent.status_code == 415, kind
        assert not server.backend.requests
