"""Bytes on the disk: whole or not at all, under names of our own, also when the disk is full."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.core.errors import FolderError
from headrace.store.file_folder import FileFolder

BATCH = "batch_" + "a" * 32
FILE = "file-" + "b" * 24


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """The operating system's own refusal to let a file grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_is_seen_when_it_is_settled_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = FileFolder(tmp_path / "some" / "where")
    writer = folder.new_writer()
    writer.write(b"one ")
    writer.write(b"two")
    assert writer.num_bytes == 7
    assert folder.find(FILE) is None
    writer.settle(FILE)
    writer.discard()
    with folder.open(FILE) as file:
        assert file.read() == b"one two"
    modes = {path.stat().st_mode & 0o077 for path in [folder.path, *folder.path.rglob("*")]}
    assert modes == {0}
    folder.delete(FILE)
    folder.delete(FILE)
    assert names(folder.path) == []
    with pytest.raises(FolderError, match="No such file"):
        folder.open(FILE)


def test_what_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    folder = FileFolder(tmp_path)
    writer = folder.new_writer()
    writer.write(b"x" * 100)
    writer.discard()
    writer.discard()
    assert names(tmp_path) == []


def test_a_full_disk_is_an_error_with_its_reason_and_leaves_nothing(tmp_path: Path) -> None:
    folder = FileFolder(tmp_path)
    writer = folder.new_writer()
    with largest_file(1000), pytest.raises(FolderError, match="File too large"):
        writer.write(b"x" * 100_000)
    writer.discard()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["../x", "file-", "/etc/passwd", "file-" + "b" * 24 + "/../x", "owner.lock", ""]
)
def test_only_our_own_ids_become_paths(tmp_path: Path, name: str) -> None:
    folder = FileFolder(tmp_path)
    for use in (folder.open, folder.find, folder.delete, folder.open_journal):
        with pytest.raises(ValueError, match="no id"):
            use(name)


def test_a_journal_goes_on_behind_its_last_whole_line(tmp_path: Path) -> None:
    folder = FileFolder(tmp_path)
    journal = folder.open_journal(BATCH)
    journal.append([b"one", b"two"])
    journal.append([b"x" * 200_000])
    journal.close()
    path = tmp_path / "journals" / BATCH
    with path.open("ab") as file:
        file.write(b"torn" * 30_000)
    journal = folder.open_journal(BATCH)
    journal.append([b"three"])
    assert list(journal.read()) == [b"one", b"two", b"x" * 200_000, b"three"]
    journal.close()
    assert path.read_bytes().endswith(b"x\nthree\n")


def test_a_journal_of_one_torn_line_is_empty(tmp_path: Path) -> None:
    folder = FileFolder(tmp_path)
    (tmp_path / "journals" / BATCH).write_bytes(b"torn" * 50_000)
    journal = folder.open_journal(BATCH)
    assert list(journal.read()) == []
    journal.close()


def test_lines_that_did_not_fit_are_not_there_and_can_be_added_later(tmp_path: Path) -> None:
    journal = FileFolder(tmp_path).open_journal(BATCH)
    journal.append([b"one"])
    with largest_file(50), pytest.raises(FolderError, match="File too large"):
        journal.append([b"two", b"x" * 100])
    assert list(journal.read()) == [b"one"]
    journal.append([b"two"])
    assert list(journal.read()) == [b"one", b"two"]
    journal.close()
    with pytest.raises(FolderError, match="closed"):
        journal.append([b"three"])


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    first, second = FileFolder(tmp_path), FileFolder(tmp_path)
    assert first.try_to_own()
    assert first.try_to_own()
    assert not second.try_to_own()
    first.close()
    assert second.try_to_own()
    second.close()


def test_strangers_go_when_they_are_old(tmp_path: Path) -> None:
    folder = FileFolder(tmp_path)
    for place in (f"files/{FILE}", "files/file-" + "c" * 24, "parts/x", f"journals/{BATCH}"):
        (tmp_path / place).write_bytes(b"x")
    assert folder.delete_strangers({FILE}, {BATCH}, 3600) == 0
    for path in tmp_path.rglob("*"):
        os.utime(path, (0, 0))
    assert folder.delete_strangers({FILE}, {BATCH}, 3600) == 2
    assert names(tmp_path) == [f"files/{FILE}", f"journals/{BATCH}"]
