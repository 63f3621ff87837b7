"""The heat and the rounds after it, with runners whose speeds are known."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import turn as turns
from bench_peers import Contest
from cells import Cell
from engines import OURS, Engine
from findings import Findings
from install import Installer
from pairs import Bench
from turn import Turn

PEERS = Path(turns.__file__).parent
PROGRAM = """
import sys
sys.path.insert(0, {peers!r})
from protocol import Answer, serve_runs

class Engine:
    def __init__(self, model, options):
        self.facts = {{"work": {{"stream_bytes": 1, "body_weights": 1, "head_weights": 1}}}}

    def run(self, prompts, output_tokens):
        if {dies} and len(prompts[0]) == 512:
            raise SystemExit("out of memory")
        return [Answer(512 / {speed}, 1.0, output_tokens) for _ in prompts]

serve_runs(Engine)
"""
PREFILL = Cell("0.5b", "prefill", 1, 512, 1)


def engine(folder: Path, name: str, speed: int, dies: bool = False) -> Engine:
    """An engine that reads a prompt at a speed, or dies of a long one."""
    program = folder / f"{name}.py"
    program.write_text(PROGRAM.format(peers=str(PEERS), speed=speed, dies=dies))
    return Engine(name, name, str(program), "", "gguf")


def test_only_contenders_stay_after_the_heat_and_failures_have_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(Turn(None), 1, random.Random(0), tmp_path / "logs")
    found = Findings({"rounds": 2})
    contest = Contest(bench, Installer(bench.turn), tmp_path / "a.gguf", [PREFILL], found)
    peers = [
        engine(tmp_path, "near", 400),
        engine(tmp_path, "slow", 100),
        engine(tmp_path, "dying", 100, dies=True),
        engine(tmp_path, "best", 500),
    ]
    contest.hold(engine(tmp_path, OURS, 1000), peers, rounds=2)
    measured = [(pair.round, pair.engine, round(pair.ratio, 2)) for pair in found.pairs]
    assert measured == [
        (0, "near", 2.5),
        (0, "slow", 10.0),
        (0, "best", 2.0),
        (1, "best", 2.0),
        (1, "near", 2.5),
    ]
    assert found.failures["0.5b"].keys() == {"dying"}
    assert "out of memory" in found.failures["0.5b"]["dying"]
    assert "dying on a: ended with code 1" in capsys.readouterr().out
    best = found.best(PREFILL)
    assert best is not None and (best.engine, best.rounds) == ("best", 2)
