"""The priority of a key reaches the engine, and no body gets before it."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.served_app import run_server
from headrace.core.stores import ApiKey
from headrace.economics.accounts import Accounts
from headrace.store.key_ring import StoredKey, StoredKeys, hash_secret

BODY: dict[str, Any] = {"model": "tiny", "prompt": "hi"}


def accounts_of(priority: int) -> Accounts:
    key = ApiKey(id="k", name="k", tenant="t", scopes=("inference",), priority=priority)
    return Accounts(keys=StoredKeys([StoredKey(key, hash_secret("hr_k"))]))


@pytest.mark.parametrize(
    ("of_key", "of_body", "wanted"),
    [
        (0, None, 0), (-5, None, -5), (5, None, 5), (5, 0, 5), (-5, 3, 3), (0, 7, 7), (3, 3, 3),
        (0, -1, None), (5, 4, None), (0, 10**9, None),
    ],
)  # fmt: skip
def test_a_key_and_its_body(of_key: int, of_body: int | None, wanted: int | None) -> None:
    with run_server(accounts=accounts_of(of_key)) as server, server.client() as client:
        headers = {"Authorization": "Bearer hr_k"}
        body = BODY if of_body is None else BODY | {"priority": of_body}
        reply = client.post("/v1/completions", json=body, headers=headers)
        if wanted is None:
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, "priority")
            assert server.backend.requests == []
        else:
            assert reply.status_code == 200
            assert [request.priority for request in server.backend.requests] == [wanted]


@pytest.mark.parametrize(("of_body", "status"), [(-7, 200), (7, 200), (10**30, 400)])
def test_without_keys_the_body_decides(of_body: int, status: int) -> None:
    with run_server() as server, server.client() as client:
        reply = client.post("/v1/completions", json=BODY | {"priority": of_body})
        assert reply.status_code == status
        given = [request.priority for request in server.backend.requests]
        assert given == ([of_body] if status == 200 else [])
