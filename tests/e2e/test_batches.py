"""A batch with a real model and the official client, through a server killed in its middle."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from openai import OpenAI
from openai.types import Batch
from programs import eventually
from served_model import ServedModel, serve

from fakes.random_model import write_random_model
from headrace.core.config import DEFAULT_MODEL

CHAT = "/v1/chat/completions"
NUM_LINES = 14
TEXTS = [f"Count from {number} to {number + 9}, digits only." for number in range(NUM_LINES)]
SAMPLING: dict[str, Any] = {"max_tokens": 12, "temperature": 0.8, "seed": 5}
SETTINGS = (
    'server:\n  max_batch_requests: 2\nengine:\n  max_model_len: 512\nstore:\n  ledger: "on"\n'
)


def body(text: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": DEFAULT_MODEL, "messages": messages} | SAMPLING


def lines() -> bytes:
    requests = [
        {"custom_id": f"r{index}", "method": "POST", "url": CHAT, "body": body(text)}
        for index, text in enumerate(TEXTS)
    ]
    return b"".join(json.dumps(request).encode() + b"\n" for request in requests)


def num_finished(client: OpenAI, batch_id: str) -> int:
    counts = client.batches.retrieve(batch_id).request_counts
    return counts.completed if counts is not None else 0


def ended(client: OpenAI, batch_id: str) -> Batch | None:
    batch = client.batches.retrieve(batch_id)
    return batch if batch.status in ("completed", "failed", "expired", "cancelled") else None


def rows_of(database: Path, batch_id: str) -> dict[str, tuple[str, int]]:
    """Row id and output tokens of each finished line; a second row for one is an error."""
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute(
            "SELECT request_id, row_id, output_tokens FROM usage_rows "
            "WHERE http_status = 200 AND request_id LIKE ?",
            (f"{batch_id}:%",),
        ).fetchall()
    rows = {request_id: (row_id, tokens) for request_id, row_id, tokens in found}
    assert len(rows) == len(found)
    return rows


def test_a_batch_outlives_a_killed_server(qwen05_path: Path, tmp_path: Path) -> None:
    """No line is missing, none is there twice, none that was finished is computed again, and the
    answers are those that the same requests get one by one."""
    database, config = tmp_path / "headrace.db", tmp_path / "settings.yaml"
    config.write_text(SETTINGS)
    environ = {"HEADRACE_DATABASE": f"sqlite:///{database}", "HEADRACE_CONFIG": str(config)}
    with serve(DEFAULT_MODEL, tmp_path, **environ) as server, server.openai() as client:
        source = client.files.create(file=("in.jsonl", lines()), purpose="batch")
        made = client.batches.create(
            input_file_id=source.id, endpoint=CHAT, completion_window="24h"
        )
        eventually(lambda: num_finished(client, made.id) >= 2, "two lines are finished")
        server.program.process.kill()
        server.program.end()
    before = rows_of(database, made.id)
    assert len(before) < NUM_LINES

    with serve(DEFAULT_MODEL, tmp_path, **environ) as server, server.openai() as client:
        batch = eventually(lambda: ended(client, made.id), "the batch ends")
        content = client.files.content(batch.output_file_id or "").text
        alone = [client.chat.completions.create(**body(TEXTS[index])) for index in (0, 13)]
        server.program.process.terminate()
        server.program.end()
        assert "goes on after" in server.program.stderr

    assert (batch.status, batch.error_file_id) == ("completed", None)
    counts, usage = batch.request_counts, batch.usage
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (NUM_LINES, NUM_LINES, 0)
    results = [json.loads(line) for line in content.splitlines()]
    names = sorted(f"r{index}" for index in range(NUM_LINES))
    assert sorted(line["custom_id"] for line in results) == names
    answers = {line["custom_id"]: line["response"]["body"] for line in results}
    for index, answer in zip((0, 13), alone, strict=True):
        message = answers[f"r{index}"]["choices"][0]["message"]
        assert message["content"] == answer.choices[0].message.content

    after = rows_of(database, made.id)
    assert sorted(after) == sorted(f"{made.id}:{index + 1}" for index in range(NUM_LINES))
    assert before.items() <= after.items()
    num_tokens = sum(answer["usage"]["completion_tokens"] for answer in answers.values())
    assert usage is not None
    assert usage.output_tokens == num_tokens == sum(tokens for _, tokens in after.values())


COLUMNS = "input_tokens, output_tokens, finish_reason, error, http_status"


def usage_of(database: Path, like: str) -> list[sqlite3.Row]:
    """Rows of calls whose request id is like that."""
    with closing(sqlite3.connect(database)) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute(
            f"SELECT {COLUMNS} FROM usage_rows WHERE request_id LIKE ?",  # noqa: S608
            (like,),
        ).fetchall()


def agrees(batch: Batch, database: Path) -> bool:
    """Whether a batch says what the ledger does, cut-off lines included."""
    rows, usage = usage_of(database, f"{batch.id}:%"), batch.usage
    assert usage is not None
    sums = [sum(row[name] or 0 for row in rows) for name in ("input_tokens", "output_tokens")]
    return sums == [usage.input_tokens, usage.output_tokens]


def long_line(model: str, name: str, max_tokens: int) -> bytes:
    body = {"model": model, "prompt": "A river", "ignore_eos": True, "max_tokens": max_tokens}
    asked = {"custom_id": name, "method": "POST", "url": "/v1/completions", "body": body}
    return json.dumps(asked).encode() + b"\n"


@contextmanager
def small_server(folder: Path, shutdown_timeout_s: float = 0.2) -> Iterator[ServedModel]:
    """One that cuts off what runs when it ends."""
    (folder / "settings.yaml").write_text(
        f"server: {{shutdown_timeout_s: {shutdown_timeout_s}, max_batch_requests: 2}}\n"
        'engine: {max_model_len: 4096, max_num_seqs: 4}\nstore: {ledger: "on"}\n'
    )
    environ = {"HEADRACE_CONFIG": str(folder / "settings.yaml")}
    with serve(folder / "model", folder, "--memory", "500MiB", **environ) as server:
        yield server


def begin_long(client: OpenAI, model: str, lengths: list[int]) -> Batch:
    data = b"".join(long_line(model, str(place), most) for place, most in enumerate(lengths))
    source = client.files.create(file=("in.jsonl", data), purpose="batch")
    return client.batches.create(
        input_file_id=source.id, endpoint="/v1/completions", completion_window="24h"
    )


def test_a_cancelled_batch_is_charged_for_what_it_says(tmp_path: Path) -> None:
    write_random_model(tmp_path / "model", 2)
    database = tmp_path / "headrace.db"
    with small_server(tmp_path) as server, server.openai() as client:
        made = begin_long(client, server.model, [5, 4000, 4000])
        eventually(lambda: usage_of(database, f"{made.id}:1"), "the short line is finished")
        eventually(lambda: server.metric("vllm:num_requests_running") == 2, "two long lines run")
        before = server.metric("vllm:generation_tokens_total")
        eventually(
            lambda: server.metric("vllm:generation_tokens_total") > before, "their tokens come"
        )
        client.batches.cancel(made.id)
        batch = eventually(lambda: ended(client, made.id), "the batch ends")
        assert batch.status == "cancelled"
        eventually(lambda: len(usage_of(database, f"{made.id}:%")) == 3, "three rows")
        rows = usage_of(database, f"{made.id}:%")
        cut_off = [row for row in rows if row["http_status"] is None]
        assert {(row["finish_reason"], row["error"]) for row in cut_off} == {
            ("abort", "batch_cancelled")
        }
        assert len(cut_off) == 2 and all(row["output_tokens"] > 0 for row in cut_off)
        assert batch.usage is not None and batch.usage.output_tokens > 5
        assert agrees(batch, database)


def test_what_the_end_of_a_server_cuts_off_says_so(tmp_path: Path) -> None:
    """Lines of batches and streams: in the ledger, in the log, and in the usage of the batch that
    goes on later."""
    write_random_model(tmp_path / "model", 2)
    database, body = tmp_path / "headrace.db", {"prompt": "A river", "ignore_eos": True}
    with small_server(tmp_path) as server, server.openai() as client, server.client() as http:
        made = begin_long(client, server.model, [4000, 5])
        eventually(lambda: usage_of(database, f"{made.id}:2"), "the short line is finished")
        body |= {"model": server.model, "max_tokens": 4000, "stream": True}
        with http.stream("POST", "/v1/completions", json=body) as reply:
            lines = reply.iter_lines()
            next(lines)
            server.program.process.terminate()
            assert any("The server is shutting down" in line for line in lines)
        server.program.end()
    assert "200 broken off: server_stopped" in server.program.stderr
    assert "CapacityError" not in server.program.stderr
    (stream,) = usage_of(database, "req_%")
    assert (stream["finish_reason"], stream["error"]) == ("abort", "server_stopped")
    assert stream["output_tokens"] > 0
    cut_off = [row for row in usage_of(database, f"{made.id}:%") if row["http_status"] is None]
    assert [(row["finish_reason"], row["error"]) for row in cut_off] == [
        ("abort", "server_stopped")
    ]
    with small_server(tmp_path, 10.0) as server, server.openai() as client:
        batch = eventually(lambda: ended(client, made.id), "the batch ends")
        assert batch.status == "completed" and batch.usage is not None
        assert batch.usage.output_tokens == 4005 + cut_off[0]["output_tokens"]
        eventually(lambda: agrees(batch, database), "the ledger has every row")
