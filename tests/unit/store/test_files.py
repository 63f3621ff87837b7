"""Files and batches in SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.stored_cases import CASES, Case, run_case
from headrace.store.database import Database, default_url
from headrace.store.files import find_folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_sqlite(case: Case, tmp_path: Path) -> None:
    run_case(case, tmp_path)


def test_each_database_has_a_folder_of_its_own(tmp_path: Path) -> None:
    lite = Database(default_url(tmp_path / "x"))
    first, second = (Database(f"postgresql://u:secret@host/{name}") for name in "ab")
    places = [find_folder(database, tmp_path, None) for database in (lite, first, second)]
    assert places[0] == tmp_path / "x" / "headrace.db-files"
    assert len(set(places)) == 3
    assert {place.parent for place in places[1:]} == {tmp_path}
    assert find_folder(lite, tmp_path, tmp_path / "given") == tmp_path / "given"
