"""Random and malformed requests at every route: no answer is a server error, nothing is left.

The app is the real one, in this process; requests go through the real templates, tokenizer and
compiler of forms. Routes come from the app itself: a new one is covered with the line that adds it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from starlette.routing import Route

from fakes.asgi_client import AsgiClient, Reply
from fakes.bodies import PATH_MARK, Choices, dump, field_names, make_call, whole_body
from fakes.byte_tokenizer import VOCAB_SIZE, byte_tokenizer
from fakes.fake_backend import FakeBackend
from fakes.running_engine import TEMPLATE, running_engine
from fakes.served_app import FixedMetrics
from fakes.stored import open_storage
from fakes.usage import open_database
from headrace.core.clock import SystemClock
from headrace.core.config import ServerConfig
from headrace.core.request import GenerateRequest
from headrace.engine.input_processor import InputProcessor
from headrace.engine.text_threads import TextThreads
from headrace.engine.tokenizer_text import TokenizerText
from headrace.sampling.logits_rule import LogitsRules
from headrace.server.app import HeadraceApp
from headrace.server.kept_responses import KeptResponses
from headrace.server.services import Services
from headrace.store.responses import StoredResponses
from headrace.text.chat_template import ChatTemplate

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
# Drawing costs as much as several calls, so each example is the bytes of some bodies.
NUM_EXAMPLES, BODIES_PER_EXAMPLE, BYTES_PER_BODY = 100, 10, 48
NUM_PLAIN_CALLS = 50
CONFIG = ServerConfig(max_body_bytes=64 * 1024, max_json_depth=32)
NAMES = ("tiny", "a%b", "..", f"../../{PATH_MARK}", "é", "x" * 300, "a/b/c", "\x00", "-1")

# A database of earlier failures would make runs differ; `make test-all` draws anew.
QUICK = settings(deadline=None, database=None, phases=(Phase.generate, Phase.shrink))

files_touched: list[str] = []


def watch_files(event: str, arguments: tuple[Any, ...]) -> None:
    """Note each call to the system that names a file of a request's choosing."""
    if PATH_MARK in repr(arguments[:2]) and event.split(".", 1)[0] in _FILE_EVENTS:
        files_touched.append(f"{event} {arguments!r}"[:300])


_FILE_EVENTS = {"open", "os", "shutil", "glob", "pathlib", "subprocess", "sqlite3", "import"}
sys.addaudithook(watch_files)


@dataclass
class Fuzzed:
    """The app under test, and the names of fields it knows."""

    client: AsgiClient
    names: tuple[str, ...]


def routes_of(app: HeadraceApp) -> list[tuple[str, str]]:
    """Method and path of each route."""
    return [
        (method, route.path)
        for route in app._router.routes
        if isinstance(route, Route)
        for method in sorted(route.methods or ())
    ]


ROUTES = routes_of(
    HeadraceApp(Services(None, CONFIG, FixedMetrics(), "9"))  # type: ignore[arg-type]
)
WITH_BODY = [pair for pair in ROUTES if pair[0] in ("POST", "PUT", "PATCH")]
WITHOUT_BODY = [pair for pair in ROUTES if pair not in WITH_BODY]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    """Real checks, templates, tokens, forms and storage; the answers are a script's."""
    rules = LogitsRules(byte_tokenizer, VOCAB_SIZE)
    prompts = InputProcessor(
        byte_tokenizer(), ChatTemplate(TEMPLATE, {}), 1000, check_form=rules.check
    )

    async def admit(request: GenerateRequest) -> None:
        prompts.prepare(request)

    backend = FakeBackend(admission=admit)
    database = open_database(tmp_path_factory.mktemp("fuzz"))
    store = StoredResponses(database, SystemClock(), retention_days=1)
    folder = tmp_path_factory.mktemp("storage")
    with (
        asyncio.Runner() as runner,
        open_storage(folder) as door,
    ):
        threads = TextThreads(1)
        backend.model_text = TokenizerText(byte_tokenizer(), prompts, threads)
        kept = KeptResponses(lambda: store)
        app = HeadraceApp(
            Services(*(backend, CONFIG, FixedMetrics(), "9"), kept=kept, storage=door)
        )
        yield Fuzzed(AsgiClient(app, runner), field_names())
        runner.run(app.services.runs.end(app.services.lifetime))
        threads.end()
    database.close()
    assert (backend.num_running, app.services.lifetime.num_running) == (0, 0)
    rules.close()
    assert files_touched == []


def check(reply: Reply) -> None:
    assert 200 <= reply.status < 500, reply
    assert reply.is_complete
    assert reply.headers["x-request-id"]
    # An error after the first byte of a stream has no status.
    assert b'"server_error"' not in reply.body, reply
    assert b'"api_error"' not in reply.body, reply
    if reply.status >= 400:
        error = json.loads(reply.body)["error"]
        assert error["type"]
        assert error["message"]


def test_routes_and_fields_are_found(fuzzed: Fuzzed) -> None:
    assert {"temperature", "messages", "include_usage", "tool_choice"} <= set(fuzzed.names)
    assert ("POST", "/v1/chat/completions") in WITH_BODY
    assert ("DELETE", "/v1/responses/{id}") in WITHOUT_BODY
    assert ("GET", "/v1/models") in WITHOUT_BODY
    assert len(ROUTES) >= 14


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses"])
def test_the_whole_body_is_a_good_one(fuzzed: Fuzzed, path: str) -> None:
    """Else the bodies that are made of it would all fail at the same first field."""
    reply = fuzzed.client.call("POST", path, dump(whole_body(path)), JSON)
    assert reply.status == 200, reply


def fill(path: str, choices: Choices) -> str:
    """A name for each parameter of a route's path."""
    parts = path.split("{")
    return parts[0] + "".join(choices.pick(NAMES) + part.partition("}")[2] for part in parts[1:])


@pytest.mark.parametrize(("method", "path"), WITH_BODY, ids=str)
def test_no_body_is_a_server_error(fuzzed: Fuzzed, method: str, path: str) -> None:
    num_bytes = BODIES_PER_EXAMPLE * BYTES_PER_BODY
    num_calls = 0

    @settings(QUICK, max_examples=NUM_EXAMPLES)
    @given(data=st.binary(min_size=num_bytes, max_size=num_bytes))
    def call_some(data: bytes) -> None:
        nonlocal num_calls
        for begin in range(0, num_bytes, BYTES_PER_BODY):
            choices = Choices(data[begin : begin + BYTES_PER_BODY], fuzzed.names, path)
            body, headers = make_call(choices)
            check(fuzzed.client.call(method, fill(path, choices), body, headers))
            num_calls += 1

    call_some()
    assert num_calls >= 1000


@pytest.mark.parametrize(("method", "path"), WITHOUT_BODY, ids=str)
def test_no_address_is_a_server_error(fuzzed: Fuzzed, method: str, path: str) -> None:
    @settings(QUICK, max_examples=NUM_PLAIN_CALLS)
    @given(data=st.binary(max_size=24), query=st.text(max_size=30))
    def call_once(data: bytes, query: str) -> None:
        choices = Choices(data, fuzzed.names)
        name = choices.pick(fuzzed.names)
        address = f"{fill(path, choices)}?{name}={query}&limit={choices.below(9)}"
        body, headers = make_call(choices)
        check(fuzzed.client.call(method, address, body, headers))

    call_once()


@settings(QUICK, max_examples=100)
@given(path=st.text(max_size=20), method=st.sampled_from(["GET", "POST", "HEAD", "DELETE", "PRI"]))
def test_no_path_is_a_server_error(fuzzed: Fuzzed, path: str, method: str) -> None:
    for begin in ("/", "/v1/", "//", ""):
        check(fuzzed.client.call(method, begin + path))


def test_the_engine_keeps_nothing_of_any_body() -> None:
    """The same on the real scheduler and cache: whatever was asked, its blocks come back."""
    rules, names = LogitsRules(byte_tokenizer, VOCAB_SIZE), field_names()
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        opened = running_engine(max_model_len=48, check_form=rules.check)
        running = runner.run(stack.enter_async_context(opened))
        app = HeadraceApp(Services(running.backend, CONFIG, FixedMetrics(), "9"))
        client = AsgiClient(app, runner)

        @settings(QUICK, max_examples=150)
        @given(data=st.binary(max_size=48))
        def call_once(data: bytes) -> None:
            body, headers = make_call(Choices(data, names))
            check(client.call("POST", CHAT, body, headers))

        call_once()
        runner.run(running.until_idle())
        runner.run(stack.aclose())
    rules.close()


def test_no_path_of_a_request_reaches_the_file_system(fuzzed: Fuzzed) -> None:
    """The operating system is asked for no name that a request has sent, wherever it was."""
    file = f"file:///{PATH_MARK}"
    forms: list[dict[str, Any]] = [
        {"json": {"$ref": file}},
        {"json": {"$id": file, "type": "object"}},
        {"grammar": f'%import "{PATH_MARK}"\nstart: "a"'},
        {"grammar": f'start: @"{file}"'},
    ]
    places: list[dict[str, Any]] = [
        *({"structured_outputs": form} for form in forms),
        *({name: f"../../../../{PATH_MARK}"} for name in fuzzed.names),
        {"messages": [{"role": f"/{PATH_MARK}", "content": "{% include '" + PATH_MARK + "' %}"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": file}]}]},
        {"chat_template": "{% include '/" + PATH_MARK + "' %}"},
    ]
    before = len(files_touched)
    with pytest.raises(FileNotFoundError):
        Path(f"/{PATH_MARK}").read_bytes()
    assert len(files_touched) == before + 1, "the watch sees nothing"
    del files_touched[before:]
    for method, path in ROUTES:
        for name in (f"/{PATH_MARK}", f"..%2f{PATH_MARK}", f"../{PATH_MARK}"):
            address = path.split("{")[0] + name if "{" in path else f"{path}?file={name}"
            check(fuzzed.client.call(method, address, b"", {"x-request-id": name}))
        if (method, path) in WITH_BODY:
            for place in places:
                body = dump(whole_body(path) | place)
                check(fuzzed.client.call(method, path, body, {"content-type": "application/json"}))
    assert files_touched == []
