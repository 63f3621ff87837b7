"""The scripts that will run on a GPU, dry: their own code, on the interpreter and tiny shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "cuda"


def run(name: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, SCRIPTS / name, *arguments], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_all_checks_times_and_records(tmp_path: Path) -> None:
    lines = run("all.py", "--dry-run", "--seed", "1", "--out", str(tmp_path))
    record = json.loads(lines[-1])
    assert json.loads((tmp_path / "cuda-all.json").read_text()) == record
    assert record["is_dry_run"] and max(record["errors"].values()) < 1e-3
    names = [row["name"] for row in record["rows"]]
    assert {"prefill 4", "decode batch 2 context 3 replay"} <= set(names)


def test_vs_vllm_counts_every_token_of_its_turns(tmp_path: Path) -> None:
    record = json.loads(run("vs_vllm.py", "--dry-run", "--out", str(tmp_path))[-1])
    (turn,) = record["turns"]
    assert turn["tokens_per_s"]["dry-run"] > 0
