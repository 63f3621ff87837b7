"""The database: transactions, files that go away and come back, versions of tables."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, func, select

from headrace.core.errors import ConfigError, StoreError
from headrace.store.database import Database, default_url, open_database

numbers = Table("numbers", MetaData(), Column("n", Integer, primary_key=True))


def open_numbers(path: Path) -> Database:
    database = Database(default_url(path))
    database.create_file()
    database.prepare("numbers", (numbers.create,))
    return database


def count(database: Database) -> int:
    with database.reading() as connection:
        return connection.scalar(select(func.count(numbers.c.n))) or 0


def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    database = open_numbers(tmp_path / "some" / "where")
    files = sorted((tmp_path / "some" / "where").iterdir())
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * len(files)
    database.close()


def test_what_a_block_writes_is_there_after_it_and_not_after_a_failure(tmp_path: Path) -> None:
    database = open_numbers(tmp_path)
    with database.writing() as connection:
        connection.execute(numbers.insert().values(n=1))
    with pytest.raises(ZeroDivisionError), database.writing() as connection:
        connection.execute(numbers.insert().values(n=2))
        raise ZeroDivisionError
    assert count(database) == 1
    database.close()


def test_readers_do_not_wait_for_the_writer(tmp_path: Path) -> None:
    database = open_numbers(tmp_path)
    with database.writing() as connection:
        connection.execute(numbers.insert().values(n=1))
        counts: list[int] = []
        reader = threading.Thread(target=lambda: counts.append(count(database)))
        reader.start()
        reader.join(60)
        assert counts == [0]
    assert count(database) == 1
    database.close()


def test_two_that_read_and_then_write_take_turns(tmp_path: Path) -> None:
    """Without BEGIN IMMEDIATE both would read 0."""
    database = open_numbers(tmp_path)

    def add_next() -> None:
        for _ in range(10):
            with database.writing() as connection:
                found = connection.scalar(select(func.count(numbers.c.n)))
                connection.execute(numbers.insert().values(n=found))

    threads = [threading.Thread(target=add_next) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert count(database) == 30
    database.close()


def test_a_file_that_is_taken_away_is_missed_and_found_again(tmp_path: Path) -> None:
    database = open_numbers(tmp_path)
    assert count(database) == 0
    (tmp_path / "headrace.db").rename(tmp_path / "away.db")
    with pytest.raises(StoreError, match="No such file"):
        count(database)
    (tmp_path / "away.db").rename(tmp_path / "headrace.db")
    with database.writing() as connection:
        connection.execute(numbers.insert().values(n=1))
    assert count(database) == 1
    database.close()


def test_another_file_in_its_place_is_the_one_that_is_read(tmp_path: Path) -> None:
    first = open_numbers(tmp_path / "a")
    with first.writing() as connection:
        connection.execute(numbers.insert().values(n=1))
    other = open_numbers(tmp_path / "b")
    other.close()
    (tmp_path / "a").rename(tmp_path / "old")
    (tmp_path / "b").rename(tmp_path / "a")
    assert count(first) == 0
    first.close()


def test_tables_get_the_steps_they_lack_and_a_newer_version_is_refused(tmp_path: Path) -> None:
    database = open_numbers(tmp_path)
    done: list[str] = []
    steps = (numbers.create, lambda _: done.append("two"))
    database.prepare("numbers", steps)
    database.prepare("numbers", steps)
    assert done == ["two"]
    with pytest.raises(StoreError, match="version 2, made by a newer headrace"):
        database.prepare("numbers", (numbers.create,))
    database.close()


def test_what_is_no_database_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "headrace.db").write_bytes(b"not a database, however long it may be" * 100)
    database = Database(default_url(tmp_path))
    with pytest.raises(StoreError, match=r"headrace\.db failed: file is not a database\."):
        database.prepare("numbers", (numbers.create,))
    database.close()


@pytest.mark.parametrize(
    "url",
    [
        *("mysql://u:secret@h/d", "nothing", "sqlite://", "http://[x"),
        *("sqlite:///:memory:", "sqlite:///a.db?mode=ro"),
    ],
)
def test_urls_of_no_known_kind(url: str) -> None:
    with pytest.raises(ConfigError, match="sqlite:///FILE or postgresql://") as caught:
        Database(url)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file/a.db", "{}/file is a file: name another place"),
        ("file/deeper/a.db", "{}/file is a file: name another place"),
        ("folder", "{}/folder is a folder: add the name of a file"),
        ("none/a.db", "{}/none does not exist: create it"),
    ],
)
def test_a_place_where_no_file_can_be(tmp_path: Path, place: str, reason: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    url = f"sqlite:///{tmp_path / place}"
    with pytest.raises(ConfigError) as caught:
        open_database(url, tmp_path)
    assert caught.value.message == (
        f"store.database_url is {url!r}; allowed: a file in a folder that exists. "
        f"{reason.format(tmp_path)}, or check --database and HEADRACE_DATABASE."
    )


def test_a_home_where_no_folder_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"hub\.home \(HEADRACE_HOME\).*/file is a file\."):
        open_database(None, tmp_path / "file" / "home")
    assert not open_database(None, tmp_path / "new" / "home").exists()


def test_a_folder_that_takes_no_files() -> None:
    database = open_database("sqlite:////proc/a.db", Path("/proc"))
    with pytest.raises(ConfigError, match=r"/proc/a\.db'.*No such file or directory: name another"):
        database.create_file()
    database.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_others_write_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="may not be written to: name another place"):
        open_database(f"sqlite:///{tmp_path}/a.db", tmp_path)
