"""The README's table of peers, from the record that a measurement wrote."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from cells import CELLS
from findings import Findings
from pairs import Pair

from headrace.core.machine import Roof

ROOT = Path(__file__).parents[3]
ROOF = Roof(read_bytes_per_s=2e10, int8_ops_per_s=8e12)
FACTS = {"headrace": {"work": {"stream_bytes": 1, "body_weights": 1, "head_weights": 1}}}


def test_it_names_the_best_peer_of_each_cell_and_who_was_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Findings({"rounds": 2, "num_threads": 2}, facts={"0.5b": FACTS})
    found.pairs = [
        Pair("decode-0.5b", "vllm", 0, 40.0, 10.0, 4.0, ROOF),
        Pair("decode-0.5b", "llama-server", 0, 40.0, 20.0, 2.0, ROOF),
        Pair("decode-0.5b", "llama-server", 1, 42.0, 20.0, 2.1, ROOF),
    ]
    found.failures["0.5b"] = {"openvino-gguf": "no Q5_0"}
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "2026-01-01-cpu-amx.jsonl").write_text(json.dumps(found.as_json()) + "\n")
    table = load_script()
    monkeypatch.setattr(table, "ROOT", tmp_path)
    text = "before\n<!-- peers: begin -->\nold\n<!-- peers: end -->\nafter\n"
    lines = table.renewed(text).splitlines()
    title = next(cell.title for cell in CELLS if cell.name == "decode-0.5b")
    assert f"| qwen2.5-coder:0.5b, {title} | 41 | 20 llama-server | 2.05 (2.00 to 2.10) |" in lines
    assert "the record says why: openvino-gguf" in lines[-3]
    assert "old" not in lines and (lines[0], lines[-1]) == ("before", "after")


@pytest.mark.parametrize(
    ("met", "shown"),
    [(1, "2.00 (one round, no median)"), (2, "2.05 (2.00 to 2.10, 2 of 3 rounds)")],
)
def test_it_says_where_a_peer_was_not_in_every_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, met: int, shown: str
) -> None:
    found = Findings({"rounds": 3, "num_threads": 2}, facts={"0.5b": FACTS})
    found.pairs = [
        Pair("decode-0.5b", "vllm", number, 40.0, 20.0, ratio, ROOF)
        for number, ratio in enumerate([2.0, 2.1][:met])
    ]
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "2026-01-01-cpu-amx.jsonl").write_text(json.dumps(found.as_json()) + "\n")
    table = load_script()
    monkeypatch.setattr(table, "ROOT", tmp_path)
    (row,) = [line for line in table.peers().splitlines() if line.startswith("| qwen")]
    assert row.endswith(f"| {shown} |")


def test_each_model_comes_from_its_newest_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [
        ("2026-01-01", "decode-0.5b", 40.0),
        ("2026-01-01", "decode-1.5b", 15.0),
        ("2026-01-02", "decode-0.5b", 80.0),
    ]
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    for date, cell, ours in records:
        model = cell.removeprefix("decode-")
        found = Findings({"rounds": 1, "num_threads": 2}, facts={model: FACTS})
        found.pairs = [Pair(cell, "vllm", 0, ours, 10.0, ours / 10.0, ROOF)]
        with (results / f"{date}-cpu-amx.jsonl").open("a") as file:
            file.write(json.dumps(found.as_json()) + "\n")
    table = load_script()
    monkeypatch.setattr(table, "ROOT", tmp_path)
    rows = [line for line in table.peers().splitlines() if line.startswith("| qwen")]
    assert [row.split(" | ")[1] for row in rows] == ["80", "15"]


def test_two_machines_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    for tier, cells in {"cpu-amx": ["0.5b", "1.5b"], "cpu-avx512": ["0.5b"]}.items():
        found = Findings({"rounds": 1, "num_threads": 2}, facts=dict.fromkeys(cells, FACTS))
        ours = 40.0 if tier == "cpu-amx" else 30.0
        found.pairs = [
            Pair(f"decode-{name}", "vllm", 0, ours, 10.0, ours / 10.0, ROOF) for name in cells
        ]
        path = results / f"2026-01-01-{tier}.jsonl"
        path.write_text(json.dumps(found.as_json() | {"cpu": f"CPU of {tier}"}) + "\n")
    table = load_script()
    monkeypatch.setattr(table, "ROOT", tmp_path)
    lines = table.peers().splitlines()
    assert lines[0].split(" | ")[1:5:3] == ["cpu-amx: headrace", "cpu-avx512: headrace"]
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines if "qwen" in line]
    assert rows == [
        ["40", "10 vllm", "4.00 (4.00 to 4.00)", "30", "10 vllm", "3.00 (3.00 to 3.00)"],
        ["40", "10 vllm", "4.00 (4.00 to 4.00)", "", "", ""],
    ]
    assert "CPU of cpu-amx, 2 threads" in lines[-1] and "CPU of cpu-avx512" in lines[-1]


def load_script() -> ModuleType:
    """The script as a module; it lies in no package."""
    path = ROOT / "scripts" / "make_readme_table.py"
    spec = importlib.util.spec_from_file_location("make_readme_table", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
