"""/v1/files over real storage: the official client, two tenants, and what strangers send."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from fakes.fake_clock import FakeClock
from fakes.served_app import RunningServer, run_server
from fakes.stored import OpenStorage, open_storage
from fakes.usage import eventually
from headrace.core.clock import SystemClock
from headrace.core.config import ServerConfig
from headrace.core.files import FilePage
from headrace.core.stores import NO_LIMITS
from headrace.economics.accounts import Accounts
from headrace.server.files import MAX_UPLOADS
from headrace.store.keys import KeyStore

CONFIG = ServerConfig(port=0, max_file_bytes=100_000, max_tenant_file_bytes=150_000)
UNKNOWN = "file-" + "0" * 24


@dataclass
class Served:
    """A server with storage and a key for each of two tenants."""

    server: RunningServer
    door: OpenStorage
    clock: FakeClock
    secrets: dict[str, str]

    def openai(self, tenant: str = "acme") -> openai.OpenAI:
        return self.server.openai(self.secrets[tenant])

    def client(self, tenant: str = "acme") -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.secrets[tenant]}"}
        return httpx.Client(base_url=self.server.address, headers=headers, timeout=60)

    def on_disk(self) -> list[str]:
        return sorted(path.name for path in self.door.folder.glob("*-files/[fp]*/*"))


@pytest.fixture(scope="module")
def module_served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("files")) as running:
        yield running


@pytest.fixture
def served(module_served: Served) -> Iterator[Served]:
    yield module_served
    files = module_served.door.storage.files
    for tenant in module_served.secrets:
        for record in files.list(tenant, FilePage(limit=10_000))[0]:
            files.delete(tenant, record.id)


@contextmanager
def serving(folder: Path, config: ServerConfig = CONFIG) -> Iterator[Served]:
    clock = FakeClock(1_800_000_000.0)
    with open_storage(folder, clock) as door:
        keys = KeyStore(door.database, SystemClock())
        secrets = {
            name: keys.create(name, None, ["inference"], NO_LIMITS)[1] for name in ("acme", "other")
        }
        accounts = Accounts(keys=keys.ring())
        with run_server(None, config, accounts, clock, storage=door) as server:
            yield Served(server, door, clock, secrets)


def test_from_upload_to_deletion(served: Served) -> None:
    data = bytes(range(256)) * 300
    with served.openai() as client, served.openai("other") as stranger:
        made = client.files.create(
            file=("näme 🌊.bin", data),
            purpose="user_data",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert (made.bytes, made.filename, made.purpose) == (76_800, "näme 🌊.bin", "user_data")
        assert (made.object, made.status, made.created_at) == ("file", "processed", 1_800_000_000)
        assert made.expires_at == made.created_at + 3600
        assert client.files.retrieve(made.id) == made
        assert [found.id for found in client.files.list()] == [made.id]
        content = client.files.content(made.id)
        assert content.content == data
        headers = content.response.headers
        assert headers["content-type"] == "application/octet-stream"
        name = "attachment; filename*=UTF-8''n%C3%A4me%20%F0%9F%8C%8A.bin"
        assert headers["content-disposition"] == name

        assert list(stranger.files.list()) == []
        for use in (stranger.files.retrieve, stranger.files.content, stranger.files.delete):
            with pytest.raises(openai.NotFoundError, match="There is no file") as caught:
                use(made.id)
            with pytest.raises(openai.NotFoundError) as unknown:
                use(UNKNOWN)
            assert str(caught.value).replace(made.id, UNKNOWN) == str(unknown.value)

        gone = client.files.delete(made.id)
        assert (gone.id, gone.deleted, gone.object) == (made.id, True, "file")
        with pytest.raises(openai.NotFoundError):
            client.files.content(made.id)
    assert served.on_disk() == []


def test_pages_of_the_official_client(served: Served) -> None:
    with served.openai() as client:
        ids = [
            client.files.create(file=b"x", purpose=["batch", "vision"][i % 2]).id for i in range(5)
        ]
        assert [found.id for found in client.files.list(limit=2)] == ids[::-1]
        assert [found.id for found in client.files.list(limit=2, order="asc")] == ids
        assert [found.id for found in client.files.list(purpose="vision")] == [ids[3], ids[1]]
        page = client.files.list(limit=2)
        assert page.has_more
        assert (page.first_id, page.last_id) == (ids[4], ids[3])
        for file_id in ids:
            client.files.delete(file_id)


def test_files_expire(tmp_path: Path) -> None:
    with serving(tmp_path) as served, served.openai() as client:
        policy: Any = {"anchor": "created_at", "seconds": 7200}
        short = client.files.create(file=b"x", purpose="vision", expires_after=policy)
        batch = client.files.create(file=b"x", purpose="batch")
        kept = client.files.create(file=b"x", purpose="assistants")
        month_s = 30 * 24 * 3600
        assert (batch.expires_at, kept.expires_at) == (batch.created_at + month_s, None)
        served.clock.advance(7200)
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(short.id)
        served.clock.advance(month_s)
        assert [found.id for found in client.files.list()] == [kept.id]
        served.server.call(served.server.app.services.batch_news.set)
        eventually(lambda: served.on_disk() == [kept.id])


def form(**fields: Any) -> dict[str, Any]:
    """Arguments of a right upload, with changes; None leaves a field out."""
    file = fields.pop("file", ("a.jsonl", b"{}"))
    data = {name: value for name, value in ({"purpose": "batch"} | fields).items() if value}
    return {"data": data, "files": {} if file is None else {"file": file}}


@pytest.mark.parametrize(
    ("arguments", "param", "message"),
    [
        (form(purpose=None), "purpose", "purpose is missing; give one of assistants, batch, "),
        (form(purpose="fun"), "purpose", "purpose is 'fun'; allowed: one of assistants, batch, "),
        (form(purpose="batch_output"), "purpose", "allowed: one of assistants"),
        ({"data": {"purpose": "batch"}, "files": {"x": b"y"}}, "file", "file is missing"),
        (form(file=("a\u200bb", b"x")), "filename", "printable characters"),
        (form(file=("x" * 300, b"x")), "filename", "1 to 255 printable"),
        (form(**{"expires_after[anchor]": "now"}), "expires_after[anchor]", "is 'now'; allowed"),
        (form(**{"expires_after[seconds]": "7200"}), "expires_after[anchor]", "is null; allowed"),
        *(
            (
                form(**{"expires_after[anchor]": "created_at", "expires_after[seconds]": seconds}),
                "expires_after[seconds]",
                "a whole number from 3600 to 2592000",
            )
            for seconds in ("3599", "2592001", "-1", "1e4", "²", "9" * 30)
        ),
    ],
)
def test_a_wrong_form_is_refused_and_leaves_nothing(
    served: Served, arguments: dict[str, Any], param: str, message: str
) -> None:
    with served.client() as client:
        reply = client.post("/v1/files", **arguments)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param), error
    assert message in error["message"]
    assert served.on_disk() == []


def test_unknown_fields_are_named(served: Served) -> None:
    with served.client() as client:
        reply = client.post("/v1/files", **form(colour="red"))
        assert reply.headers["x-headrace-warnings"] == "colour"
        client.delete(f"/v1/files/{reply.json()['id']}")


def test_sizes(served: Served) -> None:
    with served.client() as client:
        reply = client.post("/v1/files", **form(file=("a", b"x" * 100_001)))
        assert reply.status_code == 413
        assert "server.max_file_bytes" in reply.json()["error"]["message"]
        first = client.post("/v1/files", **form(file=("a", b"x" * 100_000)))
        assert first.status_code == 200
        reply = client.post("/v1/files", **form(file=("a", b"x" * 50_001)))
        assert reply.status_code == 400
        assert "server.max_tenant_file_bytes" in reply.json()["error"]["message"]
        client.delete(f"/v1/files/{first.json()['id']}")
        empty = client.post("/v1/files", **form(file=("a", b"")))
        assert empty.json()["bytes"] == 0
        assert client.get(f"/v1/files/{empty.json()['id']}/content").content == b""
        client.delete(f"/v1/files/{empty.json()['id']}")
    assert served.on_disk() == []


def test_other_methods_types_and_callers(served: Served) -> None:
    with served.client() as client:
        assert client.post("/v1/files", json={}).status_code == 415
        reply = client.put("/v1/files", content=b"x")
        assert (reply.status_code, reply.headers["allow"]) == (405, "GET, HEAD, POST")
        for query in ("limit=0", "limit=10001", "limit=x", "order=up", "purpose=x", "after=x"):
            reply = client.get(f"/v1/files?{query}")
            assert reply.status_code == 400
            assert reply.json()["error"]["param"] == query.split("=")[0]
        client.headers.pop("authorization")
        for method, path in (("GET", ""), ("POST", ""), ("DELETE", f"/{UNKNOWN}")):
            assert client.request(method, f"/v1/files{path}").status_code == 401
    with run_server() as bare, bare.client() as client:
        assert client.get("/v1/files").status_code == 404


def test_a_web_page_sends_no_form_to_an_open_server(tmp_path: Path) -> None:
    """A browser sends forms to any address unasked; it names the page."""
    page = {"Origin": "https://evil.example"}
    with open_storage(tmp_path) as door:
        for config, status in ((CONFIG, 403), (replace(CONFIG, cors_origins=("*",)), 200)):
            with run_server(None, config, storage=door) as server, server.client() as client:
                assert client.post("/v1/files", **form(), headers=page).status_code == status
                assert client.post("/v1/files", **form()).status_code == 200
                path = "/v1/batches/x/cancel"
                assert client.post(path, headers=page).status_code == {403: 403, 200: 404}[status]


@pytest.mark.parametrize(
    "name", ["..%2f..%2fetc%2fpasswd", "%00", "file-%00", "file-..%2f" + "0" * 22, "x" * 5000, "🌊"]
)
def test_no_path_of_a_request_reaches_the_file_system(served: Served, name: str) -> None:
    with served.client() as client:
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
            assert client.request(method, f"/v1/files/{name}{path}").status_code == 404
        client.post("/v1/files", **form(file=("../../x", b"y")))
        (made,) = client.get("/v1/files").json()["data"]
        assert made["filename"] == "../../x"
        assert served.on_disk() == [made["id"]]
        client.delete(f"/v1/files/{made['id']}")


def test_a_client_that_leaves_in_mid_upload_leaves_nothing(served: Served) -> None:
    request = httpx.Request("POST", "http://x", **form(file=("a", b"x" * 50_000)))
    body, kind = request.read(), request.headers["content-type"]
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
        f"Authorization: Bearer {served.secrets['acme']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(served.server.host_and_port, timeout=60) as raw:
        raw.sendall(head.encode() + body[:20_000])
        eventually(lambda: len(served.on_disk()) == 1)
    eventually(lambda: served.on_disk() == [])


def test_a_tenant_has_few_uploads_at_a_time(served: Served) -> None:
    """Unfinished ones are in no sum of the tenant's files, and take room all the same."""
    request = httpx.Request("POST", "http://x", **form(file=("a", b"x" * 50_000)))
    body, kind = request.read(), request.headers["content-type"]
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
        f"Authorization: Bearer {served.secrets['acme']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with ExitStack() as stack:
        for number in range(MAX_UPLOADS):
            address = served.server.host_and_port
            raw = stack.enter_context(socket.create_connection(address, timeout=10))
            raw.sendall(head.encode() + body[:20_000])
            eventually(lambda number=number: len(served.on_disk()) == number + 1)
        with served.client() as client:
            refused = client.post("/v1/files", **form())
        with served.client("other") as other:
            made = other.post("/v1/files", **form())
            assert made.status_code == 200
            other.delete(f"/v1/files/{made.json()['id']}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "slow_down")
    assert "retry-after" in refused.headers
    eventually(lambda: served.on_disk() == [])
    with served.client() as client:
        again = client.post("/v1/files", **form())
        assert again.status_code == 200
        client.delete(f"/v1/files/{again.json()['id']}")


def test_a_folder_that_is_gone_is_a_503(tmp_path: Path) -> None:
    with serving(tmp_path) as served, served.client() as client:
        made = client.post("/v1/files", **form()).json()
        os.rename(tmp_path / "headrace.db-files", tmp_path / "away")
        for reply in (
            client.get(f"/v1/files/{made['id']}/content"), client.post("/v1/files", **form())
        ):  # fmt: skip
            assert reply.status_code == 503
            assert "retry-after" in reply.headers
            assert str(tmp_path) not in reply.text
        os.rename(tmp_path / "away", tmp_path / "headrace.db-files")
        assert client.get(f"/v1/files/{made['id']}/content").content == b"{}"
