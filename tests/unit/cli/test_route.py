"""`headrace route`: what is learned and summed up, and what is said of files that will not do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from headrace.cli.app import build_app
from headrace.core.errors import ConfigError
from headrace.router.route_model import read_route_model


def invoke(*words: str | Path) -> Result:
    given = ["route", *map(str, words)]
    return CliRunner().invoke(build_app(given), given)


def write_labelled(path: Path, count: int) -> Path:
    lines = (
        {"prompt": "why and how? " * (1 + 9 * (n % 2)), "needs_premium": n % 2 == 1}
        for n in range(count)
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_labelled_file_becomes_a_model_with_an_honest_interval(tmp_path: Path) -> None:
    file, out = write_labelled(tmp_path / "a.jsonl", 40), tmp_path / "model.json"
    done = invoke("fit", file, "--out", out, "--premium-share", "0.5")
    assert done.exit_code == 0, done.output
    # 0.025 ** (1 / 20): twenty pairs in order leave that room.
    assert "area under the curve 1.000 (95%: 0.832 to 1.000; chance is 0.5)" in done.stdout
    assert "100.0%" in done.stdout and f"written to {out}" in done.stdout
    assert read_route_model(out, "x").metrics["num_rows"] == 40
    shown = invoke("shadow", file)
    assert (shown.exit_code, shown.stdout) == (0, "")
    assert "no comparisons in these records" in shown.stderr


@pytest.mark.parametrize(("share", "is_said"), [("0.5", False), ("0.3", True)])
def test_a_share_that_ties_do_not_allow_is_said(tmp_path: Path, share: str, is_said: bool) -> None:
    """Half of the prompts are one long text, the others one short text: all or none go."""
    file, out = write_labelled(tmp_path / "a.jsonl", 40), tmp_path / "model.json"
    done = invoke("fit", file, "--out", out, "--premium-share", share)
    assert ("Of 30.0% that may go to the premium tier 0.0% do" in done.stdout) is is_said
    assert ("have the same score" in done.stdout.replace("\n", " ")) is is_said


def write_pairs(path: Path, count: int) -> Path:
    lines = ({"one": f"where is it {n}", "other": f"where is it {n} ", "same": True}
             for n in range(count))  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_pairs_that_show_too_little_are_said(tmp_path: Path, minilm_path: Path) -> None:
    few = invoke("pairs", write_pairs(tmp_path / "few.jsonl", 2))
    assert isinstance(few.exception, ConfigError)
    assert "FILE is a file with 2 pairs; allowed: at least 20 pairs" in few.exception.message
    file = write_pairs(tmp_path / "some.jsonl", 20)
    warning = "Not shown: these pairs are too few for at most"
    for most, said in (
        ("0.01", f"{warning} 1.0% false hits; that takes 381 hits without a false one, here are"),
        ("0", f"{warning} 0.0% false hits; no number of pairs shows none."),
    ):
        shown = invoke("pairs", file, "--encoder", minilm_path, "--max-false-hits", most)
        assert "min_similarity: 0.70" in shown.stdout and said in shown.stdout
    loose = invoke("pairs", file, "--encoder", minilm_path, "--max-false-hits", "0.2")
    assert "min_similarity: 0.70" in loose.stdout and warning not in loose.stdout


def test_what_will_not_do_is_said_with_what_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    good, few = write_labelled(tmp_path / "a.jsonl", 40), write_labelled(tmp_path / "b.jsonl", 8)
    for words, said in (
        ((), f"{tmp_path}/home/shadow'; allowed: a folder or file of records. `routing.shadow`"),
        ((tmp_path / "none.jsonl",), "allowed: a file of JSON lines. No such file or directory."),
        ((few,), "FILE is 8 records, of which 4 need the premium tier and 4 do not; allowed: at"),
        (
            (good, "--out", tmp_path / "no" / "m.json"),
            f"exists. There is no folder {tmp_path}/no; make it first.",
        ),
        ((good, "--out", tmp_path), "--out is"),
        ((good, "--cheap", "small"), "--cheap is 'small'"),
        ((good, "--min-agreement", "1.5"), "--min-agreement is 1.5; allowed: a number from 0 to 1"),
    ):
        done = invoke("fit", *words)
        assert isinstance(done.exception, ConfigError), done.output
        assert said in done.exception.message
