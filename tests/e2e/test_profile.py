"""`headrace profile` on an engine of this machine, interrupted while it times steps."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from programs import beside, headrace

from fakes.random_model import write_random_model
from fakes.workload_files import workload_tree, write_workload
from headrace.planner.step_times import RUNS

TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"

# The real command, which gets its Ctrl-C after the third run and not by the clock.
INTERRUPTED = """
import os, signal
from headrace.cli.main import main
from headrace.planner.journal import Journal

add = Journal.add_step_run

def add_and_stop(self, tier, run):
    add(self, tier, run)
    if len(self.step_runs(tier)) == 3:
        os.kill(os.getpid(), signal.SIGINT)

Journal.add_step_run = add_and_stop
main()
"""


def write_local_workload(folder: Path) -> Path:
    """One tier: a small random model of this machine."""
    model = write_random_model(folder / "model", num_layers=2, chat_template=TEMPLATE)
    tree: dict[str, Any] = workload_tree()
    tree["tiers"] = {"large": {"model": str(model), "usd_per_hour": 0.15, "utilization": 0.5}}
    return write_workload(folder, tree)


def entries(journal: Path) -> list[dict[str, Any]]:
    lines = journal.read_text().splitlines()[1:] if journal.exists() else []
    return [json.loads(line) for line in lines]


def test_what_was_timed_before_ctrl_c_is_not_timed_again(tmp_path: Path) -> None:
    workload, journal = write_local_workload(tmp_path), tmp_path / "work.profile.jsonl"
    command = ("profile", workload, "--samples", "1")
    with beside([sys.executable, "-c", INTERRUPTED, *command], tmp_path) as program:
        assert program.end() == 130, program.stderr
    for said in (
        f"large: starting {tmp_path}/model",
        "large: asking for 2 answers",
        f"large: timing steps, {len(RUNS)} runs",
        "large: steps of 1 after 20 words",
        f"stopped; {journal} has what was measured; the same command goes on",
    ):
        assert said in program.stderr
    kept = entries(journal)
    assert sum(entry["kind"] == "step_run" for entry in kept) == 3
    again = headrace(*command)
    assert again.code == 0, again.stderr
    left = len(RUNS) - 3
    assert f"large: timing steps, {left} runs" in again.stderr
    assert f"{left} of {left} answers and timed runs" in again.stderr
    found = entries(journal)
    assert found[: len(kept)] == kept
    assert [entry["kind"] for entry in found[len(kept) :]] == ["step_run"] * left + ["steps"]
    assert headrace("capacity", workload, "--tier", "large", "--minutes", "5").code == 0
