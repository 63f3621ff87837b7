"""Rows on their way: a database that fails, is gone, is slow; memory and file that are full."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from fakes.usage import eventually, full_disk, make_row, open_ledger
from headrace.economics.ledger_writer import MAX_BATCH_ROWS
from headrace.economics.spill_file import SpillFile


def test_rows_are_there_soon_and_in_few_commits(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        commits = 0
        write = ledger.store.append

        def count(rows: object) -> None:
            nonlocal commits
            commits += 1
            write(rows)  # type: ignore[arg-type]

        ledger.store.append = count  # type: ignore[method-assign,assignment]
        for number in range(800):
            ledger.writer.append(make_row(number))
        eventually(lambda: ledger.count("ledger_rows") == 800)
        assert len(ledger.rows()) == 800
        assert 800 // MAX_BATCH_ROWS < commits < 80


def test_nothing_is_lost_by_many_threads(tmp_path: Path) -> None:
    with open_ledger(tmp_path, max_rows=10_000) as ledger:

        def append(first: int) -> None:
            for number in range(first, first + 500):
                ledger.writer.append(make_row(number))

        threads = [threading.Thread(target=append, args=(500 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ledger.writer.close()
        assert {row["request_id"] for row in ledger.rows()} == {f"req_{n}" for n in range(2000)}


def test_an_append_does_not_wait_for_the_database(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        with ledger.database.writing():
            begin_s = time.perf_counter()
            for number in range(500):
                ledger.writer.append(make_row(number))
            # The database is held by this thread: who waits for it waits for its timeout.
            assert time.perf_counter() - begin_s < 60
            assert ledger.count("ledger_rows") == 0
        eventually(lambda: len(ledger.rows()) == 500)


def test_a_full_disk_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_ledger(tmp_path) as ledger:
        with full_disk(ledger.database):
            # No page has room for the first row, so that none of the others goes before it.
            for number in range(400):
                ledger.writer.append(make_row(number, operation="x" * (100 if number else 10**5)))
            eventually(lambda: ledger.count("ledger_failures") >= 1)
            assert ledger.writer.is_failing
            eventually(lambda: ledger.metrics.gauges["headrace:ledger_rows_waiting"] == 400)
        eventually(lambda: not ledger.writer.is_failing)
        assert len(ledger.rows()) == 400
        assert ledger.count("ledger_rows_lost") == 0
    assert "database or disk is full" in caplog.text
    assert "The usage ledger is written again." in caplog.text


def test_a_database_that_goes_and_comes_back(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "db") as ledger:
        ledger.writer.append(make_row(1))
        eventually(lambda: len(ledger.rows()) == 1)
        (tmp_path / "db").rename(tmp_path / "away")
        ledger.writer.append(make_row(2))
        eventually(lambda: ledger.writer.is_failing)
        (tmp_path / "away").rename(tmp_path / "db")
        eventually(lambda: len(ledger.rows()) == 2)


def test_what_memory_cannot_hold_waits_in_the_file(tmp_path: Path) -> None:
    with open_ledger(tmp_path, max_rows=200) as ledger:
        with full_disk(ledger.database):
            ledger.writer.append(make_row(0, operation="x" * 10**5))
            eventually(lambda: ledger.writer.is_failing)
            for number in range(1, 300):
                eventually(lambda: ledger.writer.num_waiting < 200)
                ledger.writer.append(make_row(number))
            assert ledger.spilled_files
        eventually(lambda: len(ledger.rows()) == 300 and not ledger.spilled_files)
        assert ledger.count("ledger_rows_lost") == 0


def test_what_finds_no_room_is_counted_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_ledger(tmp_path, max_rows=100, max_spill_bytes=2000) as ledger:
        with full_disk(ledger.database):
            ledger.writer.append(make_row(0, operation="x" * 10**5))
            eventually(lambda: ledger.writer.is_failing)
            for number in range(1, 400):
                ledger.writer.append(make_row(number))
            lost = ledger.count("ledger_rows_lost")
            assert lost >= 290
            assert "usage rows are lost so far" in caplog.text
        eventually(lambda: len(ledger.rows()) == 400 - ledger.count("ledger_rows_lost"))
        assert ledger.count("ledger_rows_lost") == lost


def test_a_stop_leaves_rows_to_the_next_start(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        with full_disk(ledger.database):
            for number in range(300):
                ledger.writer.append(make_row(number, operation="x" * (100 if number else 10**5)))
            ledger.close(timeout_s=0.0)
        assert ledger.rows() == []
        assert len(ledger.spilled_files) == 1
        assert ledger.spilled_files[0].stat().st_mode & 0o777 == 0o600
    with open_ledger(tmp_path) as again:
        eventually(lambda: len(again.rows()) == 300)
        eventually(lambda: not again.spilled_files)


def test_a_row_after_the_end_is_lost_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.writer.close()
        ledger.writer.append(make_row(1))
        assert ledger.count("ledger_rows_lost") == 1
        assert "1 usage rows are lost so far: the ledger is closed" in caplog.text


def test_a_file_of_a_running_process_is_left_alone(tmp_path: Path) -> None:
    running = SpillFile(tmp_path / "spill", 10**6)
    assert running.add([make_row(1)]) == 1
    with open_ledger(tmp_path) as ledger:
        ledger.writer.append(make_row(2))
        eventually(lambda: ledger.count("ledger_rows") == 1)
        assert len(ledger.spilled_files) == 1
    running.close()
    with open_ledger(tmp_path) as ledger:
        eventually(lambda: len(ledger.rows()) == 2)


def test_a_damaged_line_costs_itself_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_ledger(tmp_path) as ledger:
        with full_disk(ledger.database):
            for number in range(300):
                ledger.writer.append(make_row(number, operation="x" * (100 if number else 10**5)))
            ledger.close(timeout_s=0.0)
        (path,) = ledger.spilled_files
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:100], b'{"row_id": "torn', b"\n", *lines[100:]]))
    with open_ledger(tmp_path) as again:
        eventually(lambda: len(again.rows()) == 300)
    assert f"{path}:101 is no usage row" in caplog.text
