"""Names of a query that a route does not read: named in a header, or refused before anything is
done, on the routes that run no model too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from fakes.served_app import RunningServer, run_server
from fakes.stored import open_storage
from headrace.core.clock import SystemClock
from headrace.core.config import ServerConfig
from headrace.core.server_config import UnknownFields
from headrace.store.responses import StoredResponses

ANTHROPIC = {"anthropic-version": "2023-06-01"}
# What is done with a file and a response, and names that each of them reads.
CASES = [
    ("GET", "/v1/models", ""),
    ("GET", "/v1/models/tiny", ""),
    ("GET", "/v1/files", "limit=1&order=asc&purpose=batch"),
    ("GET", "/v1/files/{file}", ""),
    ("GET", "/v1/files/{file}/content", ""),
    ("GET", "/v1/batches", "limit=1"),
    ("GET", "/v1/responses/{response}", "stream=false&include_obfuscation=false"),
    ("GET", "/v1/responses/{response}/input_items", "limit=1&order=asc"),
    ("DELETE", "/v1/responses/{response}", ""),
    ("DELETE", "/v1/files/{file}", ""),
    ("GET", "/health", ""),
    ("GET", "/metrics", ""),
]


@contextmanager
def serving(folder: Path, unknown_fields: UnknownFields) -> Iterator[RunningServer]:
    config = ServerConfig(port=0, unknown_fields=unknown_fields)
    with open_storage(folder) as door:
        responses = StoredResponses(door.database, SystemClock(), retention_days=1)
        with run_server(config=config, storage=door, open_responses=lambda: responses) as server:
            yield server


def fill(client: httpx.Client) -> dict[str, str]:
    """Ids of a file and a response."""
    file = client.post("/v1/files", data={"purpose": "batch"}, files={"file": b"{}"})
    response = client.post("/v1/responses", json={"model": "tiny", "input": "hi"})
    return {"file": file.json()["id"], "response": response.json()["id"]}


def test_they_are_named(tmp_path: Path) -> None:
    with serving(tmp_path, "warn") as server, server.client() as client:
        ids = fill(client)
        for method, path, known in CASES:
            reply = client.request(method, f"{path.format(**ids)}?foo=1&{known}&bar")
            named = reply.headers.get("x-headrace-warnings")
            assert (reply.status_code, named) == (200, "foo,bar"), (method, path)


def test_those_that_are_read_are_not(tmp_path: Path) -> None:
    with serving(tmp_path, "error") as server, server.client() as client:
        ids = fill(client)
        for method, path, known in CASES:
            reply = client.request(method, f"{path.format(**ids)}?{known}")
            assert reply.status_code == 200, reply.text
            assert "x-headrace-warnings" not in reply.headers, (method, path)


def test_they_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    with serving(tmp_path, "error") as server, server.client() as client:
        ids = fill(client)
        for method, path, known in CASES:
            reply = client.request(method, f"{path.format(**ids)}?{known}&foo=1")
            assert reply.status_code == 400, (method, path)
            assert reply.json()["error"]["param"] == "foo"
        for name in ("files", "responses"):
            assert client.get(f"/v1/{name}/{ids[name[:-1]]}").status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/tiny"])
def test_models_in_anthropics_words(tmp_path: Path, path: str) -> None:
    for unknown_fields, status in (("warn", 200), ("error", 400)):
        with serving(tmp_path, unknown_fields) as server, server.client() as client:
            # Its client of what is in beta sends that everywhere.
            reply = client.get(f"{path}?beta=true", headers=ANTHROPIC)
            assert (reply.status_code, "x-headrace-warnings" in reply.headers) == (200, False)
            reply = client.get(f"{path}?page=1", headers=ANTHROPIC)
            assert reply.status_code == status
            named = reply.headers.get("x-headrace-warnings")
            assert named == "page" if status == 200 else "page has no effect" in reply.text
