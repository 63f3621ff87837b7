"""What keeps a run's results when a section raises, dies, hangs, or has no time left."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sections import Recorder, Supervisor, items, read_lines

BENCHMARKS = Path(__file__).parents[3] / "benchmarks" / "cuda"

SECTION = f"""
import argparse, os, pathlib, sys, time
sys.path.append({str(BENCHMARKS)!r})
from sections import Recorder
parser = argparse.ArgumentParser()
parser.add_argument("record", type=pathlib.Path)
parser.add_argument("--seconds", type=float)
arguments = parser.parse_args()
recorder = Recorder(arguments.record, "part", arguments.seconds, lambda: LOST)
LOST = False
def fail(): raise ValueError("wrong shape")
def lose():
    global LOST
    LOST = True
    raise RuntimeError("illegal address")
recorder.attempt("good", lambda: {{"value": 1}})
recorder.attempt("raises", fail)
recorder.attempt("dies", lambda: os._exit(9))
recorder.attempt("loses the device", lose)
recorder.attempt("last", lambda: {{"value": 2}})
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    return Supervisor(tmp_path / "lines.jsonl", tmp_path / "log", 120)


def script(tmp_path: Path, text: str, record: Path) -> list[str]:
    path = tmp_path / "section.py"
    path.write_text(text)
    return [sys.executable, str(path), str(record)]


def test_an_item_that_kills_its_process_costs_that_item(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    supervisor.run("part", script(tmp_path, SECTION, supervisor.path), 100)
    found = {item["name"]: item for item in items(supervisor.path)}
    assert list(found) == ["good", "raises", "dies", "loses the device", "last"]
    assert found["good"]["value"] == 1
    assert found["last"]["value"] == 2
    assert found["raises"]["error"] == "ValueError: wrong shape"
    assert found["dies"]["error"] == "its process died"
    assert found["loses the device"]["error"] == "RuntimeError: illegal address"
    assert "the device is lost" in supervisor.problems["part"]


def test_sections_run_side_by_side(tmp_path: Path, supervisor: Supervisor) -> None:
    """Each knows its own items, and one that fails at once leaves the others alone."""
    good = script(tmp_path, SECTION, supervisor.path)
    bad = [sys.executable, "-c", "raise SystemExit('broken')"]
    supervisor.run_all({"part": (good, 100), "other": (bad, 100)})
    assert [item["name"] for item in items(supervisor.path)][-1] == "last"
    assert "broken" in supervisor.problems["other"]
    assert "broken" not in supervisor.problems["part"]
    assert "broken" in supervisor.log.read_text()


def test_what_fails_before_its_first_item_is_not_tried_again(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    command = script(tmp_path, "raise SystemExit('no module named torch')", supervisor.path)
    supervisor.run("part", command, 100)
    assert "no module named torch" in supervisor.problems["part"]
    assert supervisor.log.read_text().count("$ ") == 1


def test_a_section_that_hangs_is_ended(
    tmp_path: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sections.LEAST_SECONDS", 0.5)
    supervisor.run("part", script(tmp_path, "import time; time.sleep(600)", supervisor.path), 1)
    assert supervisor.problems["part"].startswith("ended after 1 s")


def test_no_section_is_begun_without_time(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path / "lines.jsonl", tmp_path / "log", 3)
    supervisor.run("part", script(tmp_path, SECTION, supervisor.path), 100)
    assert supervisor.problems == {"part": "not run: the time of all sections is spent"}
    assert not supervisor.path.exists()


def test_items_without_time_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    Recorder(path, "part", -1).attempt("late", lambda: {"value": 1})
    assert items(path) == [{"section": "part", "name": "late", "skipped": "no time was left"}]


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    Recorder(path, "part", 60).attempt("good", lambda: {"value": 1})
    with path.open("a") as file:
        file.write('{"section": "part", "na')
    assert len(read_lines(path)) == 2
    assert items(path)[0]["value"] == 1
