"""What files and batches promise of any database; test_files and test_postgres run all of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fakes.fake_clock import FakeClock
from fakes.stored import OpenStorage, open_storage
from headrace.core.batches import BatchRecord, LineError, NewBatch
from headrace.core.errors import InvalidParameter, RateLimited, RequestError
from headrace.core.files import FilePage, FileRecord, NewFile
from headrace.core.usage import Usage
from headrace.store.database import Database

DAY_S = 24 * 3600
PAGE = FilePage(limit=10)
Case = Callable[[OpenStorage, FakeClock], None]


def add(door: OpenStorage, data: bytes = b"x", tenant: str = "acme", **changes: Any) -> FileRecord:
    values = {"purpose": "batch", "filename": "a.jsonl"} | changes
    limit = values.pop("max_tenant_bytes", 10**6)
    files = door.storage.files
    writer = files.new_writer()
    try:
        writer.write(data)
        return files.add(writer, NewFile(tenant=tenant, **values), limit)
    finally:
        writer.discard()


def begin(door: OpenStorage, tenant: str = "acme", limit: int = 100, **changes: Any) -> BatchRecord:
    values: dict[str, Any] = {"key_id": None, "endpoint": "/v1/x", "window_s": DAY_S} | changes
    if "input_file_id" not in values:
        values["input_file_id"] = add(door, tenant=tenant).id
    return door.storage.batches.create(NewBatch(tenant=tenant, **values), limit)


def blobs(door: OpenStorage) -> list[str]:
    return sorted(path.name for path in door.folder.glob("*files*/files/*"))


def a_file_is_its_tenants_alone(door: OpenStorage, clock: FakeClock) -> None:
    files = door.storage.files
    record = add(door, b"hello", filename="näme 🌊.jsonl", purpose="user_data")
    assert (record.num_bytes, record.created_at_s, record.expires_at_s) == (5, 1000, None)
    assert files.find("acme", record.id) == record
    with files.open(record) as file:
        assert file.read() == b"hello"
    assert files.find("other", record.id) is None
    assert files.list("other", PAGE) == ([], False)
    assert not files.delete("other", record.id)
    for name in ("../x", "a\0b", "", "file-" + "0" * 24):
        assert files.find("acme", name) is None
        assert not files.delete("acme", name)
    assert files.delete("acme", record.id)
    assert files.find("acme", record.id) is None
    assert blobs(door) == []


def files_come_in_pages(door: OpenStorage, clock: FakeClock) -> None:
    files = door.storage.files
    ids = [add(door, purpose=["batch", "vision"][i % 2]).id for i in range(5)]
    add(door, tenant="other")

    def page(**changes: Any) -> tuple[list[int], bool]:
        found, has_more = files.list("acme", FilePage(**({"limit": 2} | changes)))
        return [ids.index(record.id) for record in found], has_more

    assert page() == ([4, 3], True)
    assert page(after=ids[3]) == ([2, 1], True)
    assert page(after=ids[1]) == ([0], False)
    assert page(is_ascending=True, after=ids[2]) == ([3, 4], False)
    assert page(purpose="vision") == ([3, 1], False)
    for after in ("file-" + "0" * 24, "a\0"):
        with pytest.raises(InvalidParameter, match="after is"):
            page(after=after)


def an_expired_file_is_gone_at_once_and_its_bytes_with_the_sweep(
    door: OpenStorage, clock: FakeClock
) -> None:
    files = door.storage.files
    record, other = add(door, expires_after_s=3600), add(door)
    clock.advance(3599)
    assert files.find("acme", record.id) is not None
    assert files.sweep() == 0
    clock.advance(1)
    assert files.find("acme", record.id) is None
    assert [found.id for found in files.list("acme", PAGE)[0]] == [other.id]
    with pytest.raises(InvalidParameter, match="input_file_id"):
        begin(door, input_file_id=record.id)
    assert files.sweep() == 1
    assert blobs(door) == [other.id]


def a_tenant_has_so_much_room(door: OpenStorage, clock: FakeClock) -> None:
    add(door, b"x" * 60)
    add(door, b"x" * 90, tenant="other")
    with pytest.raises(RequestError, match=r"41 B and 60 B of files .* the limit is 100 B"):
        add(door, b"x" * 41, max_tenant_bytes=100)
    add(door, b"x" * 40, max_tenant_bytes=100)
    assert len(blobs(door)) == 3


def an_input_stays_until_its_batch_has_ended(door: OpenStorage, clock: FakeClock) -> None:
    storage = door.storage
    source = add(door, expires_after_s=3600)
    batch = begin(door, input_file_id=source.id)
    with pytest.raises(RequestError, match=f"input of {batch.id}"):
        storage.files.delete("acme", source.id)
    assert not storage.files.delete("other", source.id)
    clock.advance(3600)
    assert storage.files.sweep() == 0
    with storage.batches.open_input(batch) as file:  # type: ignore[union-attr]
        assert file.read() == b"x"
    assert storage.batches.advance(batch.id, ("validating",), "failed")
    assert storage.files.sweep() == 1
    assert storage.batches.open_input(batch) is None


def a_batch_needs_an_input_of_its_own_tenant(door: OpenStorage, clock: FakeClock) -> None:
    foreign, wrong = add(door, tenant="other"), add(door, purpose="vision")
    for file_id in (foreign.id, "file-" + "0" * 24, "../x", "a\0b", ""):
        with pytest.raises(InvalidParameter, match="the id of a file of yours"):
            begin(door, input_file_id=file_id)
    with pytest.raises(InvalidParameter, match="This file has purpose vision"):
        begin(door, input_file_id=wrong.id)
    assert door.storage.batches.unfinished() == []


def a_tenant_has_so_many_batches(door: OpenStorage, clock: FakeClock) -> None:
    first = begin(door, limit=2)
    begin(door, limit=2)
    begin(door, tenant="other", limit=2)
    with pytest.raises(RateLimited, match="2 batches are not finished"):
        begin(door, limit=2)
    door.storage.batches.advance(first.id, ("validating",), "failed")
    begin(door, limit=2)


def a_status_changes_only_from_the_one_that_is_named(door: OpenStorage, clock: FakeClock) -> None:
    batches = door.storage.batches
    made = begin(
        door, key_id="k1", metadata={"ä": "b\0"}, output_expires_after_s=3600, endpoint="/v1/y"
    )
    assert batches.find("acme", made.id) == made
    assert (made.created_at_s, made.expires_at_s) == (1000, 1000 + DAY_S)
    assert made.metadata == {"ä": "b\0"}
    clock.advance(5)
    assert batches.advance(made.id, ("validating",), "in_progress", num_total=3, model="m")
    clock.advance(5)
    assert batches.advance(made.id, ("validating", "in_progress"), "cancelling")
    assert not batches.advance(made.id, ("in_progress",), "finalizing")
    batches.note_progress(made.id, 2, 1, Usage(10, 5, 7))
    found = batches.find("acme", made.id)
    assert found is not None
    assert (found.status, found.model, found.num_total) == ("cancelling", "m", 3)
    assert found.times == {"in_progress": 1005, "cancelling": 1010}
    assert (found.num_completed, found.num_failed, found.usage) == (2, 1, Usage(10, 5, 7))
    assert batches.find("other", made.id) is None
    assert batches.find("acme", "../x") is None
    errors = (LineError("code", "message", 3, "param"), LineError("c", "m"))
    assert batches.advance(made.id, ("cancelling",), "failed", errors=errors)
    ended = batches.find("acme", made.id)
    assert ended is not None
    assert ended.errors == errors
    assert batches.unfinished() == []


def results_and_the_last_status_come_together(door: OpenStorage, clock: FakeClock) -> None:
    storage, batch = door.storage, begin(door)
    assert [found.id for found in storage.batches.unfinished()] == [batch.id]

    def written(data: bytes) -> Any:
        writer = storage.files.new_writer()
        writer.write(data)
        return writer, NewFile(tenant="acme", purpose="batch_output", filename="o")

    storage.batches.finish(batch, "completed", [written(b"out"), None])
    found = storage.batches.find("acme", batch.id)
    assert found is not None
    assert (found.status, found.error_file_id) == ("completed", None)
    output = storage.files.find("acme", found.output_file_id or "")
    assert output is not None
    assert (output.num_bytes, output.purpose) == (3, "batch_output")
    # Again, as after a crash that came just after the commit: nothing changes.
    storage.batches.finish(batch, "cancelled", [written(b"twice"), written(b"twice")])
    assert storage.batches.find("acme", batch.id) == found
    assert len(storage.files.list("acme", PAGE)[0]) == 2


def batches_come_in_pages(door: OpenStorage, clock: FakeClock) -> None:
    ids = [begin(door).id for _ in range(3)]
    begin(door, tenant="other")
    batches = door.storage.batches
    found, has_more = batches.list("acme", 2, None)
    assert ([record.id for record in found], has_more) == ([ids[2], ids[1]], True)
    found, has_more = batches.list("acme", 2, ids[1])
    assert ([record.id for record in found], has_more) == ([ids[0]], False)
    with pytest.raises(InvalidParameter, match="after is"):
        batches.list("acme", 2, "batch_" + "0" * 32)


def a_batch_and_a_deletion_at_once_leave_no_batch_without_input(
    door: OpenStorage, clock: FakeClock
) -> None:
    storage = door.storage
    for _ in range(10):
        source, outcome = add(door), []

        def delete(file_id: str = source.id) -> None:
            try:
                outcome.append(storage.files.delete("acme", file_id))  # noqa: B023
            except RequestError:
                outcome.append(False)  # noqa: B023

        thread = threading.Thread(target=delete)
        thread.start()
        try:
            batch = begin(door, input_file_id=source.id)
        except InvalidParameter:
            batch = None
        thread.join(60)
        assert outcome == [batch is None]


CASES: tuple[Case, ...] = (
    a_file_is_its_tenants_alone,
    files_come_in_pages,
    an_expired_file_is_gone_at_once_and_its_bytes_with_the_sweep,
    a_tenant_has_so_much_room,
    an_input_stays_until_its_batch_has_ended,
    a_batch_needs_an_input_of_its_own_tenant,
    a_tenant_has_so_many_batches,
    a_status_changes_only_from_the_one_that_is_named,
    results_and_the_last_status_come_together,
    batches_come_in_pages,
    a_batch_and_a_deletion_at_once_leave_no_batch_without_input,
)


def run_case(case: Case, folder: Path, database: Database | None = None) -> None:
    clock = FakeClock()
    with open_storage(folder, clock, database) as door:
        case(door, clock)
