"""A real HTTP server on this machine that misbehaves on request, and small catalogues for it.

Site offers a file with Range support, cuts, delays, redirects, and the two answers of the Hugging
Face hub that headrace asks for.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from headrace.core.config import HubConfig
from headrace.hub.catalogue import Catalogue, CatalogueEntry
from headrace.hub.model_source import ModelFile, SourceSpec
from headrace.hub.model_store import ModelStore

CONTENT = b"GGUF" + bytes(range(256)) * 4000


@dataclass
class Site:
    """What the server offers, and what it was asked."""

    content: bytes = CONTENT
    etag: str | None = '"v1"'
    cuts: int = 0
    delay_s: float = 0.0
    raw: bytes = b""
    hub: dict[str, Any] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]


class _Handler(BaseHTTPRequestHandler):
    """/file.gguf, /norange.gguf, /raw, /status/N, /redirect/N, /loop, /away, /api/models/..."""

    protocol_version = "HTTP/1.0"
    site: Site

    def do_GET(self) -> None:
        self.site.requests.append((self.path, dict(self.headers)))
        path = self.path.partition("?")[0]
        if path.startswith("/status/"):
            self._reply(int(path.rpartition("/")[2]), b"no")
        elif path.startswith("/redirect/"):
            hops = int(path.rpartition("/")[2])
            self._redirect(f"/redirect/{hops - 1}" if hops > 1 else "/file.gguf")
        elif path == "/raw":
            self.wfile.write(self.site.raw)
        elif path == "/loop":
            self._redirect("/loop?" + str(len(self.site.requests)))
        elif path == "/away":
            self._redirect("http://example.com/file.gguf")
        elif path.startswith("/api/models/"):
            self._answer_as_hub(path.removeprefix("/api/models/"))
        else:
            self._send_file(accepts_ranges=path != "/norange.gguf")

    def _answer_as_hub(self, rest: str) -> None:
        repo = rest.partition("/revision/")[0]
        info = self.site.hub.get(repo)
        if info is None:
            # As the hub does, which does not tell a private repository from none.
            self._reply(401, b"", {"X-Error-Code": "RepoNotFound"})
        else:
            self._reply(200, info if isinstance(info, bytes) else json.dumps(info).encode())

    def _send_file(self, accepts_ranges: bool) -> None:
        time.sleep(self.site.delay_s)
        content, start = self.site.content, 0
        wanted = self.headers.get("Range", "")
        condition = self.headers.get("If-Range")
        if wanted and accepts_ranges and condition in (None, self.site.etag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self._reply(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
        headers = {"ETag": self.site.etag} if self.site.etag else {}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.site.cuts > 0:
            self.site.cuts -= 1
            self._head(206 if start else 200, len(content) - start, headers)
            self.wfile.write(content[start : start + (len(content) - start) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self._reply(206 if start else 200, content[start:], headers)

    def _redirect(self, target: str) -> None:
        self._reply(302, b"", {"Location": target})

    def _reply(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        try:
            self._head(code, len(body), headers or {})
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _head(self, code: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return None


@contextmanager
def open_site() -> Iterator[Site]:
    """Serve a site until the block ends."""
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    # So that closing the server waits for every answer, and closes its socket.
    server.daemon_threads = False
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_file(
    *sources: SourceSpec,
    content: bytes = CONTENT,
    name: str = "tiny.gguf",
    digest: str | None = None,
) -> ModelFile:
    return ModelFile(name, len(content), digest or sha256(content), sources)


def make_catalogue(*files: ModelFile) -> Catalogue:
    entry = CatalogueEntry(
        name="tiny:1m",
        aliases=("tiny",),
        description="a test",
        architecture="qwen2",
        num_parameters=1_000_000,
        quantization="Q4_K_M",
        context_length=128,
        licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
        files=files,
    )
    return Catalogue((entry,))


def make_store(config: HubConfig, *files: ModelFile) -> ModelStore:
    return ModelStore(config, make_catalogue(*files))
