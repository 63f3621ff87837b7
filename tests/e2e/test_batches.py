"""A batch with a real model and the official client, through a server killed in its middle."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from openai import OpenAI
from openai.types import Batch
from programs import eventually
from served_model import serve

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
