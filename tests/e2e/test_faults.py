"""The engine process killed, stopped and broken under a real server: clients see a pause."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from programs import eventually
from served_model import ServedModel, engine_of, serve, wait_for_another_engine

from fakes.random_model import write_random_model

COUNT = "1, 2, 3, 4, 5,"
LONG = "The rivers of Europe in a list: " + " ".join(f"river {i}," for i in range(30))
SETTINGS = "engine: {stall_timeout_s: 1.0, max_restarts: 20, memory_bytes: 400MiB}\n"
LETTERS = list(b"abcdefgh")
FORM = {"json": {"type": "array", "items": {"type": "integer"}, "minItems": 99}}
ASKS: dict[str, dict[str, Any]] = {
    "greedy": {"prompt": LONG, "temperature": 0, "ignore_eos": True},
    "sampled": {"prompt": "Rivers", "temperature": 1.2, "seed": 5, "top_p": 0.9, "logprobs": 2},
    "several": {
        "prompt": "la la la la", "temperature": 0.7, "seed": 9, "n": 2, "frequency_penalty": 1.0,
        "presence_penalty": 0.4, "repetition_penalty": 1.1, "min_tokens": 50,
    },
    "form": {"prompt": "Numbers:", "temperature": 1, "seed": 4, "structured_outputs": FORM},
    "stop": {"prompt": COUNT, "temperature": 1, "seed": 6, "allowed_token_ids": LETTERS},
}  # fmt: skip
MAX_TOKENS = 60


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def faulty(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServedModel, Path]]:
    """A server that restarts its engine as often as the tests want, with a ledger.

    In the end it is killed itself: then no engine may be left, not even one that is stopped.
    """
    folder = tmp_path_factory.mktemp("faults")
    with serve(tiny, folder, *options(folder, SETTINGS)) as server:
        yield server, folder / "ledger.db"
        engine = engine_of(server)
        engine.suspend()
        os.kill(server.program.process.pid, signal.SIGKILL)
        engine.wait(60)


def options(folder: Path, settings: str) -> list[str]:
    (folder / "settings.yaml").write_text(settings)
    database = f"sqlite:///{folder / 'ledger.db'}"
    return [
        "--config", str(folder / "settings.yaml"), "--database", database, "--ledger", "on",
    ]  # fmt: skip


def ask(client: httpx.Client, server: ServedModel, body: dict[str, Any]) -> httpx.Response:
    return client.post(
        "/v1/completions", json={"model": server.model, "max_tokens": MAX_TOKENS, **body}
    )


class Collected:
    """What a client has of an answer: all of it but ids and times."""

    def __init__(self) -> None:
        self.num_chunks = 0
        self.texts: dict[int, str] = {}
        self.logprobs: dict[int, list[Any]] = {}
        self.ends: dict[int, Any] = {}
        self.usage: Any = None

    def add(self, chunk: Any) -> None:
        self.num_chunks += 1
        self.usage = chunk.usage or self.usage
        for choice in chunk.choices:
            index = choice.index
            self.texts[index] = self.texts.get(index, "") + choice.text
            if choice.logprobs:
                entry = choice.logprobs
                pairs = zip(entry.tokens, entry.token_logprobs, entry.top_logprobs, strict=True)
                self.logprobs.setdefault(index, []).extend(pairs)
            if choice.finish_reason:
                self.ends[index] = (choice.finish_reason, getattr(choice, "stop_reason", None))

    def content(self) -> tuple[Any, ...]:
        return self.texts, self.logprobs, self.ends, self.usage


async def run_all(
    server: ServedModel,
    asks: dict[str, dict[str, Any]],
    collected: dict[str, Collected],
    turn: str = "undisturbed",
) -> None:
    """Stream every answer at once into `collected`, as request `turn`-name."""
    standard = {"prompt", "temperature", "max_tokens", "seed", "top_p", "logprobs", "n", "stop",
                "frequency_penalty", "presence_penalty"}  # fmt: skip

    async with server.async_openai() as client:

        async def run_one(name: str) -> None:
            body = {"max_tokens": MAX_TOKENS, **asks[name]}
            stream = await client.completions.create(
                model=server.model,
                stream=True,
                stream_options={"include_usage": True},
                **{key: body[key] for key in body if key in standard},
                extra_body={key: body[key] for key in body if key not in standard},
                extra_headers={"X-Request-Id": f"{turn}-{name}"},
            )
            async for chunk in stream:
                collected[name].add(chunk)

        await asyncio.gather(*map(run_one, asks))


async def disturb(
    server: ServedModel, collected: dict[str, Collected], number: signal.Signals
) -> bool:
    """Send the engine process a signal once every answer has begun, and before one has ended."""
    while any(each.num_chunks < 2 for each in collected.values()):
        await asyncio.sleep(0.005)
    if any(each.ends for each in collected.values()):
        return False
    engine_of(server).send_signal(number)
    return True


async def run_disturbed(
    server: ServedModel, asks: dict[str, dict[str, Any]], number: signal.Signals
) -> tuple[str, dict[str, Collected]]:
    """Every answer with the signal in its middle, and the turn's name.

    Where this process stood still for so long that an answer was over, they are asked again.
    """
    for attempt in range(5):
        turn, collected = f"{number.name}{attempt}", {name: Collected() for name in asks}
        is_disturbed, _ = await asyncio.gather(
            disturb(server, collected, number), run_all(server, asks, collected, turn)
        )
        if is_disturbed:
            return turn, collected
    raise AssertionError("answers were over before the signal each time")


def rows(database: Path, turn: str) -> list[tuple[Any, ...]]:
    """What the ledger has of the requests whose ids begin so, in the order of their names."""
    with sqlite3.connect(database) as connection:
        return connection.execute(
            "SELECT substr(request_id, ?), input_tokens, output_tokens, finish_reason, error "
            "FROM usage_rows WHERE request_id LIKE ? ORDER BY 1",
            (len(turn) + 1, f"{turn}%"),
        ).fetchall()


async def test_answers_go_on_after_a_kill_and_after_a_stall(
    faulty: tuple[ServedModel, Path],
) -> None:
    """Equal to the bit: texts, logprobs, ends, usage; and a row of usage each, without an error."""
    server, database = faulty
    with server.client() as client:
        for each in ASKS.values():  # fills the prefix cache
            ask(client, server, {"prompt": each["prompt"], "max_tokens": 1}).raise_for_status()
        text = ask(client, server, ASKS["stop"]).json()["choices"][0]["text"]
    stop = next(text[i : i + 5] for i in range(35, 55) if text.find(text[i : i + 5]) == i)
    asks = {**ASKS, "stop": {**ASKS["stop"], "stop": [stop, "nothing"]}}
    undisturbed = {name: Collected() for name in asks}
    await run_all(server, asks, undisturbed)
    turns = ["undisturbed"]
    for number in (signal.SIGKILL, signal.SIGSTOP):
        restarts = server.metric("headrace:engine_restarts_total")
        before = engine_of(server)
        turn, collected = await run_disturbed(server, asks, number)
        turns.append(turn)
        assert engine_of(server).pid != before.pid
        assert server.metric("headrace:engine_restarts_total") == restarts + 1
        for name in asks:
            assert collected[name].content() == undisturbed[name].content(), (number, name)
    assert undisturbed["stop"].ends[0] == ("stop", stop)
    assert len(undisturbed["sampled"].logprobs[0]) == MAX_TOKENS
    assert undisturbed["greedy"].usage.prompt_tokens_details.cached_tokens > 32
    for turn in turns:
        eventually(lambda turn=turn: len(rows(database, turn)) == len(ASKS), f"rows of {turn}")
    written, *others = (rows(database, turn) for turn in turns)
    assert others == [written, written]
    assert all(error is None for *_, error in written)


async def test_the_real_model_goes_on_too(served: ServedModel) -> None:
    asks = {
        "greedy": {"prompt": COUNT, "temperature": 0, "max_tokens": 20},
        "sampled": {"prompt": "Rivers are", "temperature": 1.1, "seed": 8, "max_tokens": 20},
    }
    with served.client() as client:
        for each in asks.values():  # fills the prefix cache
            ask(client, served, {"prompt": each["prompt"], "max_tokens": 1}).raise_for_status()
    undisturbed = {name: Collected() for name in asks}
    await run_all(served, asks, undisturbed)
    _, collected = await run_disturbed(served, asks, signal.SIGKILL)
    assert undisturbed["greedy"].texts[0].startswith(" 6, 7, 8, 9")
    for name in asks:
        assert collected[name].content() == undisturbed[name].content(), name


def test_an_idle_engine_that_is_killed_comes_back(faulty: tuple[ServedModel, Path]) -> None:
    server, _ = faulty
    server.wait_until_idle()
    before = engine_of(server)
    before.kill()
    with server.client() as client:
        # Sent while the process is dead, starting or there again: it waits where it must.
        answer = ask(client, server, {**ASKS["greedy"], "max_tokens": 9})
        assert (answer.status_code, answer.json()["usage"]["completion_tokens"]) == (200, 9)
        assert client.get("/health").status_code == 200
    assert engine_of(server).pid != before.pid
    assert "was killed by SIGKILL" in server.program.stderr


def test_every_start_of_an_engine_is_counted(faulty: tuple[ServedModel, Path], tiny: Path) -> None:
    """Also one that ended before it was ready: alarms go by the number."""
    server, _ = faulty
    server.wait_until_idle()
    name, line = "headrace:engine_restarts_total", "and is being restarted ("
    restarts, told = server.metric(name), server.program.stderr.count(line)
    before = engine_of(server)
    away = (tiny / "model.safetensors").rename(tiny / "away")
    try:
        before.kill()
        eventually(lambda: server.metric(name) >= restarts + 2, "failed starts are counted")
    finally:
        away.rename(tiny / "model.safetensors")
    with server.client() as client:
        answer = ask(client, server, {**ASKS["greedy"], "max_tokens": 9})
    assert answer.status_code == 200, answer.text
    assert server.metric(name) - restarts == server.program.stderr.count(line) - told
    text = httpx.get(f"{server.address}/metrics").text
    assert re.search(rf'^{name}{{.*reason="failed".*}} [1-9]', text, re.MULTILINE)


def test_a_client_that_left_a_stopped_engine_is_forgotten(
    faulty: tuple[ServedModel, Path],
) -> None:
    server, database = faulty
    with server.openai() as client:
        stream = client.completions.create(
            model=server.model, prompt=COUNT, max_tokens=3000, stream=True,
            extra_body={"ignore_eos": True}, extra_headers={"X-Request-Id": "left"},
        )  # fmt: skip
        next(iter(stream))
        engine_of(server).suspend()
        stream.close()
    server.wait_until_idle()
    ((*_, error),) = eventually(lambda: rows(database, "left"), "the row is written")
    assert error == "client_disconnected"


def test_too_many_restarts_end_the_engine_and_not_the_server(tiny: Path, tmp_path: Path) -> None:
    settings = options(tmp_path, "engine: {max_restarts: 1, memory_bytes: 400MiB}\n")
    with serve(tiny, tmp_path, *settings) as server, server.client() as client:
        first = engine_of(server)
        with server.openai() as official:
            stream = official.completions.create(
                model=server.model, prompt=COUNT, max_tokens=1500, stream=True,
                extra_body={"ignore_eos": True}, extra_headers={"X-Request-Id": "ended-by-a-death"},
            )  # fmt: skip
            begun = next(iter(stream)).choices[0].text
            first.kill()
            wait_for_another_engine(server, first)
            begun += next(iter(stream)).choices[0].text
            engine_of(server).kill()
            with pytest.raises(Exception, match=r"The engine ended with an error: .*SIGKILL"):
                for chunk in stream:
                    begun += chunk.choices[0].text
        assert begun
        health = client.get("/health")
        assert (health.status_code, "server is dead" in health.text) == (503, True)
        assert ask(client, server, {"prompt": "x"}).status_code == 503
        database = tmp_path / "ledger.db"
        eventually(lambda: len(rows(database, "")) == 2, "both rows are written")
        ((_, input_tokens, output_tokens, end, error),) = rows(database, "ended")
        assert (input_tokens > 0, output_tokens > 0, end, error) == (
            True, True, "error", "EngineDied",
        )  # fmt: skip
        server.program.process.terminate()
        assert server.program.end() == 0
