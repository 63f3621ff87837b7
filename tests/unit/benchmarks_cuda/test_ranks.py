"""The check of what ranks exchange, over gloo: two processes of torch without a GPU or Triton."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
SCRIPT = Path(__file__).parents[3] / "benchmarks" / "cuda" / "ranks.py"


def test_two_ranks_over_gloo() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--rounds", "1"], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["is_good"] and record["gloo"]["deviation"] == 0
    assert record["gloo"]["ms"].keys() >= {
        "all_reduce decode of 1",
        "all_gather of 4 rows of logits",
    }
    if "skipped" in record["nccl"]:
        assert "a GPU for each rank" in record["nccl"]["skipped"]
