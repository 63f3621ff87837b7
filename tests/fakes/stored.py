"""Real storage of files and batches in a folder, for servers over FakeBackend."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openai import OpenAI
from openai.types import Batch

from headrace.core.clock import Clock, SystemClock
from headrace.core.config import Config, HubConfig
from headrace.launch.stored_files import join_storage
from headrace.server.services import Storage
from headrace.store.database import Database, default_url

CHAT = "/v1/chat/completions"
ENDED = ("failed", "completed", "expired", "cancelled")


class OpenStorage:
    """A StorageDoor to storage that is open."""

    def __init__(
        self, folder: Path, clock: Clock | None = None, database: Database | None = None
    ) -> None:
        if database is None:
            database = Database(default_url(folder))
            database.create_file()
        self.database = database
        config = Config(hub=HubConfig(home=folder))
        self.storage = join_storage(database, config, clock or SystemClock())
        self.folder = folder

    def exists(self) -> bool:
        return True

    @property
    def opened(self) -> Storage:
        return self.storage

    def open(self) -> Storage:
        return self.storage

    def close(self) -> None:
        self.storage.close()


@contextmanager
def open_storage(
    folder: Path, clock: Clock | None = None, database: Database | None = None
) -> Iterator[OpenStorage]:
    door = OpenStorage(folder, clock, database)
    try:
        yield door
    finally:
        door.close()


def chat_line(custom_id: str, text: str = "hi", url: str = CHAT, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    fields = {"model": "tiny", "messages": messages} | body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": fields}


def jsonl(lines: Iterable[Any]) -> bytes:
    """Lines that are bytes stay as they are."""
    return b"".join(
        (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines
    )


def upload(client: OpenAI, lines: Iterable[Any], **options: Any) -> str:
    """Returns the id of the file."""
    content = ("input.jsonl", jsonl(lines))
    return client.files.create(file=content, purpose="batch", **options).id


def begin(client: OpenAI, lines: Iterable[Any], **options: Any) -> Batch:
    fields = {"endpoint": CHAT, "completion_window": "24h"} | options
    return client.batches.create(input_file_id=upload(client, lines), **fields)


def wait_for(client: OpenAI, batch_id: str, *statuses: str, timeout_s: float = 60.0) -> Batch:
    """Poll as clients do."""
    end_s = time.monotonic() + timeout_s
    while (batch := client.batches.retrieve(batch_id)).status not in (statuses or ENDED):
        assert time.monotonic() < end_s, batch
        time.sleep(0.02)
    return batch


def results(client: OpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    """Lines of a result by custom_id, which none may have twice."""
    if file_id is None:
        return {}
    lines = [json.loads(line) for line in client.files.content(file_id).content.splitlines()]
    found = {line["custom_id"]: line for line in lines}
    assert len(found) == len(lines)
    return found
