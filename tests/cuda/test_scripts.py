"""The scripts that will run on a GPU, dry: their own code, on the interpreter and tiny shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "cuda"


def run(name: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, SCRIPTS / name, *arguments], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_all_checks_times_and_records(tmp_path: Path) -> None:
    lines = run("all.py", "--dry-run", "--seed", "1", "--out", str(tmp_path))
    record = json.loads((tmp_path / "cuda-all.json").read_text())
    last = json.loads(lines[-1])
    assert all(last[key] == record[key] for key in last.keys() - {"ms"})
    assert "prefill 4" in last["ms"]
    assert record["is_dry_run"] and record["is_good"]
    found = {(item["section"], item["name"]): item for item in record["items"]}
    # The C++ kernels round to bfloat16, which the record's own bound allows for.
    deviations = [item["deviation"] for key, item in found.items()
                  if "deviation" in item and "beside cpu" not in key[1]]  # fmt: skip
    assert len(deviations) > 30 and max(deviations) < 1e-3
    caches = {"attention", "attention-int8", "attention-fp8"}
    checked = {"linears", "around", "choices", "tokens"} | caches
    assert checked == {key[0] for key, item in found.items() if "deviation" in item}
    times = {key[1] for key, item in found.items() if "ms" in item}
    assert {"prefill 4", "decode batch 2 context 3 replay", "dry-run requests"} <= times
    assert "decode float8, cache fp8, batch 2 context 3" in times


def test_a_machine_without_a_gpu_gets_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / "all.py", "--out", str(tmp_path)],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    if "free_bytes" in done.stdout:
        pytest.skip("there is a GPU")
    assert done.returncode == 1, done.stderr
    record = json.loads((tmp_path / "cuda-all.json").read_text())
    (item,) = record["items"]
    assert item["section"] == "device" and "ConfigError" in item["error"]
    assert "CUDA" in item["error"] or "driver" in item["error"]


def test_vs_vllm_counts_every_token_of_its_turns(tmp_path: Path) -> None:
    record = json.loads(run("vs_vllm.py", "--dry-run", "--out", str(tmp_path))[-1])
    (turn,) = record["turns"]
    assert turn["section"] == "headrace 1" and turn["name"] == "dry-run"
    assert turn["tokens_per_s"] > 0 and not record["problems"]


def test_vs_vllm_says_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / "vs_vllm.py", "--rounds", "0", "--out", str(tmp_path)],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 1
    assert "vLLM cannot be imported (ModuleNotFoundError" in done.stdout
    assert "--vllm-site" in done.stdout
