"""`headrace profile`, `plan` and `report`, over models on a real socket."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fakes.completion_server import CompletionServer, Exchange, completion_server, text
from fakes.workload_files import workload_tree, write_workload
from headrace.cli.app import build_app
from headrace.core.errors import ConfigError


async def invoke(*words: str) -> Result:
    """Run a command beside the server, which lives in this loop."""
    return await asyncio.to_thread(CliRunner().invoke, build_app(words), list(words))


async def know_all(exchange: Exchange) -> None:
    """The large model is always right, the small one about labels alone."""
    content = exchange.body["messages"][-1]["content"]
    # Lines of the data go sport, money, sport, ...: the number says which.
    digits = [word for word in content.split() if word.isdigit()]
    label = ("sport", "money")[int(digits[0]) % 2] if digits else "sport"
    is_label = content.startswith("Say")
    is_large = exchange.body["model"] == "large-model"
    said = label if is_label else f"About {label}." if is_large else "No idea at all"
    await exchange.head()
    await exchange.event(text(said, "stop"))
    await exchange.event(exchange.usage(len(said.split())))
    await exchange.event(b"[DONE]")
    await exchange.chunk(b"")


def remote_workload(
    folder: Path, server: CompletionServer, key: str | None = "env:PLANNER_TEST_KEY"
) -> Path:
    tree: dict[str, Any] = workload_tree()
    for tier in tree["tiers"].values():
        tier |= {"url": server.url} | ({} if key is None else {"api_key": key})
    tree["tasks"]["label"]["floor"] = {"within": 0.5}
    return write_workload(folder, tree)


async def test_from_a_workload_to_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANNER_TEST_KEY", "sk-not-to-be-seen")
    async with completion_server(know_all) as server:
        file = remote_workload(tmp_path, server)
        done = await invoke("profile", str(file), "--samples", "5")
        assert done.exit_code == 0, done.output
        assert "20 of 20 answers" in done.stderr
        again = await invoke("profile", str(file))
        assert "12 of 12 answers" in again.stderr
        first = server.seen[0]
        assert first.headers["authorization"] == "Bearer sk-not-to-be-seen"
        assert "add_special_tokens" not in first.body
    # From here nothing is asked any more.
    assert "sk-not-to-be-seen" not in (tmp_path / "work.profile.jsonl").read_text()
    made = await invoke("plan", str(file), "--json", "--day", "2026-11-22", "--target", "30%")
    assert made.exit_code == 0, made.output
    (plan,) = json.loads(made.stdout)
    chosen = {call["call"]: call["tier"] for call in plan["cheapest"]["calls"]}
    assert chosen == {"label": "small", "summarize": "large"}
    assert plan["prices"]["large"].startswith("anthropic/claude-sonnet-4-6@")
    page = tmp_path / "page.html"
    shown = await invoke("report", str(file), "--output", str(page), "--day", "2026-11-22")
    assert shown.exit_code == 0, shown.output
    assert "summarize is below its floor" in shown.stdout
    assert page.read_text().count("<svg") == 4
    assert "nothing is measured" not in made.stderr + shown.stderr


async def test_before_a_profile_the_command_that_measures_is_named(tmp_path: Path) -> None:
    file = write_workload(tmp_path, workload_tree())
    page = tmp_path / "page.html"
    said = f"note: nothing is measured yet; `headrace profile {file}` asks the tiers and measures"
    planned = await invoke("plan", str(file), "--json", "--day", "2026-11-22")
    reported = await invoke("report", str(file), "-o", str(page), "--day", "2026-11-22")
    for done in (planned, reported):
        assert done.exit_code == 0, done.output
        assert done.stderr.startswith(said)
    assert len(json.loads(planned.stdout)) == 1
    # One that was interrupted before its first answer.
    begun = tmp_path / "begun.jsonl"
    begun.write_text('{"headrace_profile": 1}\n')
    named = await invoke("plan", str(file), "--profile", str(begun), "--day", "2026-11-22")
    assert f"`headrace profile {file} --profile {begun}` asks the tiers" in named.stderr


async def test_what_is_not_known_is_no_zero_and_no_report(tmp_path: Path) -> None:
    tree = workload_tree()
    for task in tree["tasks"].values():
        del task["tokens"]
    file, page = write_workload(tmp_path, tree), tmp_path / "page.html"
    planned = await invoke("plan", str(file), "--day", "2026-11-22")
    assert planned.exit_code == 0
    rows = [line.split() for line in planned.stdout.splitlines() if line.startswith("label ")]
    assert rows[0] == ["label", "1,000", "?", "+", "?", "unpriced", "?", "?"]
    assert "0.0%" not in planned.stdout
    assert "measured with" not in planned.stdout
    (made,) = json.loads((await invoke("plan", str(file), "--json")).stdout)
    assert made["bounds"] == [] and made["options"][0]["input_tokens"] is None
    reported = await invoke("report", str(file), "-o", str(page), "--day", "2026-11-22")
    assert isinstance(reported.exception, ConfigError)
    assert "There is nothing to report yet" in str(reported.exception)
    assert not page.exists()


async def test_a_task_that_is_not_measured_leaves_no_shares(tmp_path: Path) -> None:
    """They would be of a day without it."""
    tree = workload_tree()
    del tree["tasks"]["summarize"]["tokens"]
    planned = await invoke("plan", str(write_workload(tmp_path, tree)), "--day", "2026-11-22")
    rows = [line.split() for line in planned.stdout.splitlines() if line.startswith("label ")]
    assert rows[0] == ["label", "1,000", "400", "+", "50", "1.95", "?", "?"]


async def test_a_task_without_any_answer_is_said_with_its_reason(tmp_path: Path) -> None:
    num_summaries = 0

    async def refuse(exchange: Exchange) -> None:
        nonlocal num_summaries
        content, is_small = (
            exchange.body["messages"][-1]["content"],
            exchange.body["model"][0] == "s",
        )
        num_summaries += is_small and content.startswith("Summarize")
        is_first_summary = content.startswith("Summarize") and num_summaries == 1
        if is_small and (content.startswith("Say") or is_first_summary):
            error = {"error": {"message": "choice is not known here"}}
            await exchange.reply("400 Bad Request", json.dumps(error).encode())
        else:
            await know_all(exchange)

    async with completion_server(refuse) as server:
        file = remote_workload(tmp_path, server, key=None)
        done = await invoke("profile", str(file), "--samples", "3")
    assert done.exit_code == 1
    said = [line for line in done.stderr.splitlines() if "requests failed, the first with" in line]
    assert [line.split(",")[0] for line in said] == [
        "label on small: 3 of 3 requests failed",
        "summarize on small: 1 of 3 requests failed",
    ]
    assert all("choice is not known here" in line for line in said)
    assert "error: no answer at all: label on small\n" in done.stderr
    made = await invoke("plan", str(file), "--day", "2026-11-22")
    rows = [line.split() for line in made.stdout.splitlines() if line.startswith("label ")]
    (row,) = (row for row in rows if row[1:4] == ["label", "small", "3"])
    # Failed, and its price, which rests on the tokens that the workload declares.
    assert row[-2] == "3"


async def test_a_model_that_is_not_there_is_told_with_its_tier(tmp_path: Path) -> None:
    tree = workload_tree()
    tree["tiers"]["small"] = {"model": "qwen2.5-coder:0.5"}
    done = await invoke("profile", str(write_workload(tmp_path, tree)), "--tiers", "small")
    assert str(done.exception).startswith("tiers.small.model is 'qwen2.5-coder:0.5'; allowed: a")
    assert "Did you mean qwen2.5-coder:0.5b?" in str(done.exception)
    text = tmp_path / "text.gguf"
    text.write_text("no model")
    tree["tiers"]["small"] = {"model": str(text)}
    done = await invoke("profile", str(write_workload(tmp_path, tree)), "--tiers", "small")
    assert f"error: tiers.small.model is '{text}'; allowed: a language" in done.stderr
    assert done.exit_code == 1


async def test_a_tier_that_does_not_answer_keeps_no_other_from_it(tmp_path: Path) -> None:
    async with completion_server(know_all) as server:
        tree = workload_tree()
        for tier in tree["tiers"].values():
            tier["url"] = server.url
        tree["tiers"]["large"]["url"] = "http://127.0.0.1:9/v1"
        file = write_workload(tmp_path, tree)
        done = await invoke("profile", str(file), "--samples", "2")
    assert done.exit_code == 1
    assert "error: Tier large does not answer: " in done.stderr
    assert "4 of 8 answers" in done.stderr
    lines = (tmp_path / "work.profile.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    assert [entry["tier"] for entry in kept if entry.get("kind") == "answer"] == ["small"] * 4


async def test_a_key_that_is_not_set_is_named(tmp_path: Path) -> None:
    async with completion_server() as server:
        done = await invoke("profile", str(remote_workload(tmp_path, server)))
    assert done.exit_code != 0
    assert "tiers.large.api_key" in str(done.exception)
    # Before anything is asked.
    assert "starting" not in done.stderr


async def test_a_key_that_is_not_set_is_told_before_any_tier_is_asked(tmp_path: Path) -> None:
    async with completion_server(know_all) as server:
        tree: dict[str, Any] = workload_tree()
        *_, last = tree["tiers"]
        for tier in tree["tiers"].values():
            tier["url"] = server.url
        tree["tiers"][last]["api_key"] = "env:PLANNER_TEST_KEY"
        done = await invoke("profile", str(write_workload(tmp_path, tree)), "--samples", "1")
        assert server.seen == []
    assert f"tiers.{last}.api_key" in str(done.exception)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("plan", "--scenario", "other"), "--scenario"),
        (("plan", "--target", "much"), "--target"),
        (("plan", "--choice", "BAD"), "--choice is 'BAD'; allowed: cheapest, smallest."),
        (("plan", "--day", "tomorrow"), "--day"),
        (("profile", "--tiers", "large,huge"), "--tiers"),
        (("advise", "--api", "nobody/nothing"), "--api"),
        (("advise", "--machine", "edge"), "--machine"),
        (("capacity", "--tier", "large"), "--tier"),
        (("profile", "--calls", "translate"), "--calls"),
    ],
)
async def test_flags_are_checked(tmp_path: Path, words: tuple[str, ...], named: str) -> None:
    command, *flags = words
    done = await invoke(command, str(write_workload(tmp_path)), *flags)
    assert done.exit_code != 0
    assert named in str(done.exception)


async def test_a_profile_that_is_named_is_there(tmp_path: Path) -> None:
    """One that is not named may be still to come."""
    file, missing = write_workload(tmp_path), tmp_path / "typo.jsonl"
    for command in (["plan"], ["capacity", "--tier", "large"], ["advise"]):
        done = await invoke(*command, str(file), "--profile", str(missing))
        assert done.exit_code != 0 and "There is none." in str(done.exception or done.output)
    assert not missing.exists()
    assert (await invoke("plan", str(file))).exit_code == 0
