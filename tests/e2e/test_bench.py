"""`headrace bench` over the real model: the three loads as a person runs them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from programs import COMMAND, Result, environment, headrace, running
from served_model import ServedModel
from terminal import CTRL_C, terminal

from headrace.core.config import DEFAULT_MODEL

pytestmark = pytest.mark.usefixtures("qwen05_path")
SMALL = ("--num-requests", "6", "--prompt-tokens", "40..80", "--output-tokens", "2..6")


def report_of(result: Result) -> dict[str, Any]:
    assert result.code == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    requests = report["requests"]
    assert (requests["finished"], requests["failures"], requests["cut_short"]) == (6, {}, 0)
    for sample in report["samples"]:
        assert sample["output_tokens"] == sample["asked_output_tokens"]
        assert 0 < sample["ttft_s"] <= sample["e2e_s"]
        assert sample["num_events"] <= sample["output_tokens"]
    return report


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_the_engine_in_this_process(mode: str) -> None:
    report = report_of(headrace("bench", mode, DEFAULT_MODEL, *SMALL, "--json"))
    assert report["target"]["kind"] == "engine" and report["target"]["model"] == DEFAULT_MODEL
    # Token ids: lengths are exact, and no two prompts share a beginning.
    assert all(40 <= sample["input_tokens"] <= 80 for sample in report["samples"])
    assert report["tokens"]["cached_input"] == 0
    overlaps = [a["end_s"] > b["sent_s"] for a, b in pairwise(report["samples"])]
    assert any(overlaps) is (mode == "throughput")


def test_a_server_under_open_load(served: ServedModel, tmp_path: Path) -> None:
    page, url = tmp_path / "page.html", served.base_url
    load = (*SMALL, "--rate", "20", "--slo", "e2e=100s", "--json", "--save-html", page)
    counters = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
    before = [served.metric(name) for name in counters]
    report = report_of(headrace("bench", "serve", "--url", url, *load))
    counted = [served.metric(name) - old for name, old in zip(counters, before, strict=True)]
    # What the client counted is what the server did, beside the two requests that calibrate.
    assert counted[1] == report["tokens"]["output"] + 2
    few_and_many = (32 + 96) * report["target"]["tokens_per_word"]
    calibrating = few_and_many + 2 * report["target"]["overhead_tokens"]
    assert counted[0] == pytest.approx(report["tokens"]["input"] + calibrating, abs=0.5)
    assert (report["target"]["url"], report["target"]["model"]) == (url, served.model)
    # A word is a token of this vocabulary, give or take what stands at the edges.
    assert report["target"]["tokens_per_word"] == pytest.approx(1.0, abs=0.02)
    assert all(38 <= sample["input_tokens"] <= 82 for sample in report["samples"])
    assert report["goodput"]["good"] == 6
    assert page.read_text().startswith("<!DOCTYPE html>")
    served.wait_until_idle()


def test_a_second_run_finds_no_prompt_in_the_cache(served: ServedModel) -> None:
    load = ("--num-requests", "6", "--prompt-tokens", "200", "--output-tokens", "2", "--seed", "77")
    ask = ("bench", "serve", "--url", served.base_url, "--rate", "50", *load, "--json")
    # The chat template stands at the front of every prompt, and nothing else.
    results = [headrace(*ask) for _ in range(2)]
    for result in results:
        found = report_of(result)
        assert found["tokens"]["cached_input"] <= 6 * found["target"]["overhead_tokens"]
        assert "cache" not in result.stderr
    one, two = [json.loads(result.stdout)["tokens"]["input_per_request"] for result in results]
    assert one == two
    repeated = [headrace(*ask, "--repeat-prompts") for _ in range(2)][1]
    assert report_of(repeated)["tokens"]["cached_input"] > 6 * 150
    assert "Leave out --repeat-prompts, or start the server anew." in repeated.stderr


def test_both_routes_count_alike(served: ServedModel, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "The capital of France is", "max_tokens": 3}\n')
    ask = ("bench", "latency", "--url", served.base_url, "--prompts", prompts, "--json")
    for api in ("chat", "completions"):
        report = report_of(headrace(*ask, "--num-requests", "6", "--api", api))
        assert report["tokens"]["output"] == 18


def test_requests_the_server_refuses_are_counted(served: ServedModel, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = [{"prompt": "Hello"}, {"prompt": "word " * 40_000}]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    ask = ("bench", "latency", "--url", served.base_url, "--prompts", prompts, "--json")
    result = headrace(*ask, "--num-requests", "2", "--output-tokens", "2")
    report = json.loads(result.stdout)
    assert report["requests"]["failures"]["http_400"]["count"] == 1
    assert "maximum context length" in report["requests"]["failures"]["http_400"]["example"]
    assert report["requests"]["finished"] == 1 and result.code == 0


LONG = ("--prompt-tokens", "64", "--output-tokens", "400")
INTERRUPTED = "\ninterrupted; a load that is cut short is not reported\n"


def test_ctrl_c_ends_a_load(served: ServedModel, tmp_path: Path) -> None:
    ask = ("bench", "serve", "--url", served.base_url, "--rate", "2", *LONG)
    with running(tmp_path, *ask) as program:
        # The two that calibrate are answered before the load; those of the load run on.
        program.wait_for(lambda: served.metric("vllm:num_requests_running") > 1, "the load runs")
        program.interrupt()
        assert program.end() == 130
        assert (program.stdout, program.stderr) == ("", INTERRUPTED)
    served.wait_until_idle()


def test_ctrl_c_ends_a_load_of_an_engine_here() -> None:
    """In a terminal, which shows that the load has begun."""
    ask = ("bench", "latency", DEFAULT_MODEL, "--prompt-tokens", "32", "--output-tokens", "16")
    with terminal([*COMMAND, *ask, "--num-requests", "1000"], environment()) as screen:
        screen.expect("[1-9][0-9]*/1000")
        screen.type(CTRL_C)
        assert screen.end() == 130
        assert screen.seen.count(INTERRUPTED) == 1
        assert "TTFT" not in screen.seen
