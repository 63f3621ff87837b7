"""`headrace explain --quick` on a real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace.cli.app import build_app

pytestmark = pytest.mark.slow


def test_what_determines_the_speed_of_a_model_is_said(gemma_path: Path) -> None:
    # With --rounds nothing is left out, however slow it is here.
    words = ["explain", str(gemma_path), "--quick", "--rounds", "1", "--json", "--formats", "q4_0"]
    done = CliRunner().invoke(build_app(words), words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    by_factor = {factor["factor"]: factor for factor in found["factors"]}
    # Weights are read once for all streams: many give more tokens on any machine.
    assert by_factor["batch size"]["best"] == "16 streams"
    assert by_factor["batch size"]["times"] > 1.5
    assert "weight format" in by_factor and "guesses, on a text that repeats" in by_factor
    points = {point["name"]: point for point in found["points"]}
    assert points["1 stream"]["bound"] == "memory"
    assert points["1 stream after 400 words, its prompt"]["num_rows"] > 300
    assert "cases" in done.stderr
    for words in (["explain", "--formats", "q9"], ["explain", "--rounds", "0"]):
        assert CliRunner().invoke(build_app(words), words).exit_code != 0
