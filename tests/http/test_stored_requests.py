"""Calls that are kept: what is written of each, and what running them again says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from test_disconnect import wait_at
from typer.testing import CliRunner

from fakes.fake_backend import FakeBackend
from fakes.served_app import run_server
from fakes.usage import eventually, open_database
from headrace.cli.app import build_app
from headrace.cli.errors import run_guarded
from headrace.core.clock import SystemClock
from headrace.core.errors import HeadraceError
from headrace.core.receipt import ModelBuild
from headrace.core.stored_requests import StoredAnswer, StoredRequest
from headrace.core.telemetry import NoMetrics
from headrace.economics.accounts import Accounts
from headrace.economics.request_writer import RequestWriter
from headrace.launch.reproduction import bodies
from headrace.store.database import Database
from headrace.store.requests import RequestStore
from headrace.store.responses import StoredResponses

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, ANTHROPIC = "/v1/responses", "/v1/messages"
HI = [{"role": "user", "content": "hi"}]
BODY: dict[str, Any] = {"model": "tiny", "messages": HI}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: BODY,
    COMPLETIONS: {"model": "tiny", "prompt": "hi", "max_tokens": 9},
    RESPONSES: {"model": "tiny", "input": "hi", "store": False},
    ANTHROPIC: {"model": "tiny", "messages": HI, "max_tokens": 9},
}
TOKENS = tuple(range(1000, 1005))
BUILD = ModelBuild("tiny.gguf", "ab" * 32, "9.9", "cpu-generic", "bf16")
EXIT_DIFFERENT = 3


@dataclass
class Kept:
    """A server that keeps calls, and the command that runs them again."""

    address: str
    backend: FakeBackend
    database: Database
    store: RequestStore
    builds: list[ModelBuild]
    client: Any

    def post(self, name: str, path: str = CHAT, **body: Any) -> Any:
        return self.client.post(
            path, json=BODIES.get(path, BODY) | body, headers={"X-Request-Id": name}
        )

    def find(self, name: str) -> StoredRequest:
        eventually(lambda: bool(self.store.find(name)))
        (found,) = self.store.find(name)
        return found

    def reproduce(self, name: str, *words: str) -> tuple[int, list[str]]:
        address = [] if "--url" in words else ["--url", self.address]
        arguments = ["reproduce", name, *address, "--database"]
        arguments += [f"sqlite:///{self.database.path}", *words]
        result = CliRunner().invoke(build_app(arguments), arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout.splitlines()


@contextmanager
def keeping(folder: Path, redacts: bool = False) -> Iterator[Kept]:
    database, backend = open_database(folder), FakeBackend()
    store = RequestStore(database, SystemClock(), 30, redacts)
    writer = RequestWriter(store, NoMetrics())
    writer.start()
    builds = [BUILD]
    with (
        run_server(
            backend,
            accounts=Accounts(requests=writer),
            open_responses=lambda: StoredResponses(database, SystemClock(), 30),
            build_of=lambda _: builds[0],
        ) as server,
        server.client() as client,
    ):
        yield Kept(server.address, backend, database, store, builds, client)
    writer.close()
    database.close()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    with keeping(tmp_path) as running:
        yield running


@pytest.mark.parametrize("path", BODIES)
def test_streamed_and_whole_calls_are_kept_alike(kept: Kept, path: str) -> None:
    kept.post("whole", path, seed=4)
    kept.post("streamed", path, seed=4, stream=True)
    whole, streamed = kept.find("whole"), kept.find("streamed")
    assert whole.answers == streamed.answers == ((StoredAnswer(TOKENS, "stop"),),)
    assert whole.receipt == streamed.receipt
    assert whole.body == BODIES[path] | {"seed": 4}
    assert (whole.tenant, whole.operation, whole.model) == ("default", path, "tiny")
    assert whole.receipt["model"]["sha256"] == "ab" * 32


@pytest.mark.parametrize("path", BODIES)
def test_calls_of_every_api_are_run_again(kept: Kept, path: str) -> None:
    kept.post("asked", path, stream=True, temperature=0.5)
    drawn = kept.backend.requests[-1]
    kept.find("asked")
    assert kept.reproduce("asked") == (0, ["bit-identical: all 5 tokens of 1 answer"])
    again = kept.backend.requests[-1]
    assert again.request_id != drawn.request_id
    assert again.sampling == replace(drawn.sampling, return_token_ids=True, is_seed_drawn=False)
    kept.backend.finish_reason = "length"
    assert kept.reproduce("asked")[0] == EXIT_DIFFERENT


@pytest.mark.parametrize("path", BODIES)
def test_how_an_answer_ended_is_compared_in_every_api(kept: Kept, path: str) -> None:
    lengths = {CHAT: "max_tokens", RESPONSES: "max_output_tokens"}
    kept.post("cut", path, **{lengths.get(path, "max_tokens"): 2})
    assert kept.find("cut").answers == ((StoredAnswer(TOKENS[:2], "length"),),)
    assert kept.reproduce("cut") == (0, ["bit-identical: all 2 tokens of 1 answer"])


def test_a_response_in_the_background_is_kept_when_it_ends(kept: Kept) -> None:
    kept.post("later", RESPONSES, background=True, store=True)
    found = kept.find("later")
    assert found.answers == ((StoredAnswer(TOKENS, "stop"),),)
    assert kept.reproduce("later") == (0, ["bit-identical: all 5 tokens of 1 answer"])


def test_a_response_that_goes_on_is_run_again_with_what_came_before(kept: Kept) -> None:
    first = kept.post("first", RESPONSES, store=True).json()
    kept.post("second", RESPONSES, previous_response_id=first["id"])
    kept.find("second")
    prompts = kept.backend.requests[-1].messages
    assert len(prompts or ()) == 3
    assert kept.reproduce("second")[0] == 0
    assert kept.backend.requests[-1].messages == prompts
    kept.client.delete(f"{RESPONSES}/{first['id']}")
    with pytest.raises(HeadraceError, match="which is not stored"):
        kept.reproduce("second")


def test_every_prompt_and_answer_is_kept(kept: Kept) -> None:
    kept.post("many", COMPLETIONS, prompt=["a", "b"], n=2, max_tokens=2)
    found = kept.find("many")
    assert found.answers == ((StoredAnswer(TOKENS[:2], "length"),) * 2,) * 2
    seeds = [entry["seed"]["value"] for entry in found.receipt["requests"]]
    again = bodies(found)
    assert [(body["prompt"], body["seed"]) for body in again] == list(zip("ab", seeds, strict=True))
    assert kept.reproduce("many") == (0, ["bit-identical: all 8 tokens of 4 answers"])


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        ([1, 2], [[1, 2]]),
        (["a"], ["a"]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_prompts_of_every_form_are_run_again(kept: Kept, prompt: Any, prompts: Any) -> None:
    kept.post("form", COMPLETIONS, prompt=prompt, max_tokens=1)
    assert [body["prompt"] for body in bodies(kept.find("form"))] == prompts
    assert kept.reproduce("form")[0] == 0


def test_a_call_that_came_to_nothing_is_not_kept(kept: Kept) -> None:
    assert kept.post("wrong", temperature=9).status_code == 400
    assert kept.post("long", messages=[{"role": "user", "content": "x" * 2000}]).status_code == 400
    kept.post("right")
    kept.find("right")
    assert not kept.store.find("wrong")
    assert not kept.store.find("long")


def test_a_call_that_was_left_is_compared_as_far_as_it_went(kept: Kept) -> None:
    kept.backend.before_step = wait_at(2)
    with kept.client.stream(
        "POST", CHAT, json=BODY | {"stream": True}, headers={"X-Request-Id": "left"}
    ) as answer:
        assert any(b"Hello" in part for part in answer.iter_bytes())
    kept.backend.before_step = None
    found = kept.find("left")
    ((one,),) = found.answers
    assert one.finish_reason is None
    assert 0 < len(one.token_ids) <= 2
    assert kept.reproduce("left")[0] == 0


def test_a_route_that_passes_bodies_on_keeps_them_as_those(kept: Kept) -> None:
    kept.post("chat", "/invocations")
    assert kept.find("chat").operation == CHAT
    kept.client.post(
        "/invocations", json={"model": "tiny", "prompt": "a"}, headers={"X-Request-Id": "text"}
    )
    assert kept.find("text").operation == COMPLETIONS
    assert kept.reproduce("text")[0] == 0


def test_differences_are_named(kept: Kept) -> None:
    kept.post("asked", seed=4)
    kept.find("asked")
    kept.backend.pieces = kept.backend.pieces[:3]
    kept.builds[0] = replace(BUILD, sha256="cd" * 32, version="10")
    code, lines = kept.reproduce("asked")
    assert code == EXIT_DIFFERENT
    assert lines == [
        "different: the answer: had 5 tokens and has 3",
        f'receipt: model sha256: was "{"ab" * 32}", is "{"cd" * 32}"',
        'receipt: model version: was "9.9", is "10"',
        "receipt: max_tokens: was 5, is 3",
    ]


def test_the_first_other_token_is_named(kept: Kept) -> None:
    kept.post("asked")
    kept.find("asked")

    def other(delta: Any, step: int) -> Any:
        return replace(delta, token_ids=(7,)) if step >= 3 else delta

    kept.backend.reworded = other
    code, lines = kept.reproduce("asked")
    assert (code, lines) == (EXIT_DIFFERENT, ["different: the answer: token 3 was 1003 and is 7"])


def test_the_drawn_seed_is_used_again(kept: Kept) -> None:
    kept.post("drawn", stream=True, stream_options={"include_usage": True})
    seed = kept.backend.requests[-1].sampling.seed
    kept.find("drawn")
    assert kept.reproduce("drawn") == (0, ["bit-identical: all 5 tokens of 1 answer"])
    assert kept.backend.requests[-1].sampling.seed == seed


def failing(kept: Kept, words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run_guarded(lambda: kept.reproduce(*words)) != 0
    return capsys.readouterr().err


def test_what_cannot_be_run_again_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with keeping(tmp_path, redacts=True) as kept:
        kept.post("secret")
        digest = kept.find("secret").body_sha256
        said = failing(kept, ["secret"], capsys)
        assert "stored without its prompt and answer" in said
        assert digest in said
        assert "There is no stored request 'gone'" in failing(kept, ["gone"], capsys)
        twin = replace(kept.find("secret"), tenant="beta", body={}, answers=())
        kept.store.append([twin])
        assert "--tenant" in failing(kept, ["secret"], capsys)
        assert "stored without" in failing(kept, ["secret", "--tenant", "beta"], capsys)


def test_an_answer_whose_seed_nobody_knows_cannot_be_had_again(
    kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    kept.post("made")
    made = kept.find("made")
    (entry,) = made.receipt["requests"]
    receipt = made.receipt | {"requests": [entry | {"seed": None}]}
    kept.store.append([replace(made, request_id="elsewhere", receipt=receipt)])
    assert "seed of elsewhere is not known" in failing(kept, ["elsewhere"], capsys)


def test_a_server_that_refuses_is_quoted(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    kept.post("asked")
    kept.find("asked")
    assert "answered 404" in failing(kept, ["asked", "--model", "other"], capsys)
    assert "--url" in failing(kept, ["asked", "--url", "ftp://x"], capsys)
    assert "does not answer" in failing(kept, ["asked", "--url", "http://127.0.0.1:9"], capsys)
