"""A report's numbers by hand, and its table and page from its JSON alone."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from headrace.bench.html_page import render_page
from headrace.bench.lengths import Lengths
from headrace.bench.load_plots import in_flight
from headrace.bench.load_report import SCHEMA_VERSION, LoadSettings, summarize
from headrace.bench.load_table import fact_rows, latency_rows, notes, title_of
from headrace.bench.outcome import Failure, Outcome
from headrace.bench.slo import parse_slo
from headrace.bench.svg_plot import Axis

SETTINGS = LoadSettings(
    mode="serve", num_requests=4, concurrency=None, rate_per_s=2.0, seed=0,
    prompt_tokens=Lengths(8, 16), output_tokens=Lengths(3, 3), prompts_file=None,
    ignore_eos=True, timeout_s=5.0, slo=parse_slo("ttft=250ms"),
)  # fmt: skip
HOSTILE = "<script>alert(1)</script> [red]&amp;"
TARGET = {
    "kind": "http", "url": "http://h/v1", "model": HOSTILE, "api": "chat", "overhead_tokens": 2.0,
}  # fmt: skip
ENVIRONMENT = {
    "headrace_version": "1", "python_version": "3", "client_cpu": "c", "started_unix_s": 0.0,
}  # fmt: skip


def outcome(index: int, scheduled_s: float, *event_s: float, **changes: Any) -> Outcome:
    whole = Outcome(
        index=index, scheduled_s=scheduled_s, sent_s=scheduled_s, end_s=max(event_s, default=0.0),
        event_s=event_s, asked_output_tokens=3, input_tokens=8 + index, cached_input_tokens=2,
        output_tokens=3,
    )  # fmt: skip
    return replace(whole, **changes)


# TTFT 0.2 and 0.4; gaps 0.1, 0.1 and 0.2, 0.2; ended after 0.4 and 0.8.
OUTCOMES = [
    outcome(0, 0.0, 0.2, 0.3, 0.4),
    outcome(1, 0.5, 0.9, 1.1, 1.3),
    outcome(2, 1.0, 1.1, end_s=2.0, output_tokens=None, failure=Failure("timeout", "5 s")),
    outcome(3, 1.5, end_s=1.6, output_tokens=None, failure=Failure("http_500", HOSTILE)),
]


@pytest.fixture
def report() -> dict[str, Any]:
    return summarize(SETTINGS, OUTCOMES, TARGET, ENVIRONMENT)


def test_it_is_json_of_a_known_version(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert (report["kind"], report["schema_version"]) == ("headrace bench load", SCHEMA_VERSION)
    assert report["settings"]["prompt_tokens"] == "8..16"
    assert report["settings"]["slo_s"] == {"ttft": 0.25}


def test_counts_and_rates(report: dict[str, Any]) -> None:
    requests, rates = report["requests"], report["rates"]
    assert (requests["total"], requests["finished"], requests["failed"]) == (4, 2, 2)
    assert requests["failures"]["timeout"] == {"count": 1, "example": "5 s"}
    assert requests["failures"]["http_500"]["count"] == 1
    assert report["wall_s"] == 2.0
    assert report["tokens"]["output"] == 6 and report["tokens"]["input"] == 8 + 9
    assert report["tokens"]["cached_input"] == 4
    assert report["tokens"]["output_per_event"] == 1.0
    assert rates["output_tokens_per_s"] == 3.0
    assert rates["total_tokens_per_s"] == 11.5
    assert rates["requests_per_s"] == 1.0
    assert rates["arrivals_per_s"] == 2.0


def test_latencies_are_those_of_finished_requests(report: dict[str, Any]) -> None:
    latency = report["latency"]
    assert latency["ttft_s"] == {
        "count": 2, "mean": 0.3, "min": 0.2, "p50": 0.3, "p90": 0.38, "p99": 0.398, "max": 0.4,
    }  # fmt: skip
    assert (latency["itl_s"]["count"], latency["itl_s"]["p50"]) == (4, 0.15)
    assert latency["tpot_s"]["max"] == 0.2
    assert latency["e2e_s"]["max"] == 0.8
    assert latency["send_delay_s"]["count"] == 4
    assert report["itl_percentiles_s"][0] == 0.1 and report["itl_percentiles_s"][100] == 0.2


def test_goodput_is_of_all_requests(report: dict[str, Any]) -> None:
    """The timed-out request had its first token in time, and is not good all the same."""
    assert report["goodput"] == {
        "slo_s": {"ttft": 0.25}, "good": 1, "share": 0.25, "requests_per_s": 0.5,
    }  # fmt: skip


def test_every_request_has_its_sample(report: dict[str, Any]) -> None:
    assert [sample["index"] for sample in report["samples"]] == [0, 1, 2, 3]
    timed_out = report["samples"][2]
    assert timed_out["failure"] == {"kind": "timeout", "message": "5 s"}
    assert (timed_out["ttft_s"], timed_out["e2e_s"]) == (0.1, None)


def test_what_no_server_said_is_unknown() -> None:
    unknown = [replace(OUTCOMES[0], cached_input_tokens=None), OUTCOMES[1]]
    assert summarize(SETTINGS, unknown, TARGET, ENVIRONMENT)["tokens"]["cached_input"] is None


def test_the_table_shows_failures_beside_the_rest(report: dict[str, Any]) -> None:
    assert latency_rows(report)[0] == (
        "TTFT, time to first token", "300", "300", "380", "398", "400",
    )  # fmt: skip
    facts = dict(fact_rows(report))
    assert facts["requests"] == "2 of 4 finished"
    assert facts["failed: timeout"] == "1 (5 s)"
    assert facts["goodput"] == "0.500 requests/s, 25.0% of all (ttft <= 250 ms)"
    assert facts["input tokens"] == "17 (4 cached), 8 to 9 each, median 8"
    assert notes(report)[0].startswith("2 of 4 requests failed")
    assert "2 requests/s, Poisson arrivals" in title_of(report)


def test_notes_warn_of_a_late_client_and_of_short_answers() -> None:
    late = [replace(OUTCOMES[0], sent_s=0.1), replace(OUTCOMES[1], output_tokens=2)]
    found = notes(summarize(SETTINGS, late, TARGET, ENVIRONMENT))
    assert found[0] == "1 answers ended before the length that was asked for."
    assert found[1].startswith("The client sent requests late, p99 99 ms")
    assert len(found) == 2


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({}, "The prompts begin alike, or the server had them from another run."),
        ({"fresh_words": 0}, "Leave out --repeat-prompts, or start the server anew."),
    ],
)
def test_a_note_warns_of_prompts_that_were_cached(changes: dict[str, int], hint: str) -> None:
    """More than the chat template, which stands at the front of all."""
    warm = [replace(OUTCOMES[0], cached_input_tokens=7), OUTCOMES[1]]
    (note,) = notes(summarize(SETTINGS, warm, {**TARGET, **changes}, ENVIRONMENT))
    assert note.startswith("9 of 17 prompt tokens came out of a cache of prefixes, so TTFT")
    assert note.endswith(hint)
    unknown = [replace(outcome, cached_input_tokens=None) for outcome in warm]
    for quiet in (OUTCOMES[:2], unknown):
        assert notes(summarize(SETTINGS, quiet, TARGET, ENVIRONMENT)) == []


class PageReader(HTMLParser):
    """Tags, addresses and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> PageReader:
    reader = PageReader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_is_one_file_without_scripts(report: dict[str, Any]) -> None:
    page = render_page(report)
    reader = read(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(reader.tags)
    assert reader.addresses == []
    assert (
        "url(" not in page
        and "@import" not in page
        and "://" not in page.replace("http://h/v1", "")
    )
    assert "prefers-color-scheme: dark" in page
    assert HOSTILE in reader.text
    assert "2 of 4 requests failed" in reader.text


def test_the_plots_are_whole_and_inside_their_frame(report: dict[str, Any]) -> None:
    svgs = re.findall(r"<svg.*?</svg>", render_page(report), re.DOTALL)
    assert len(svgs) == 7  # four curves, over time, in flight, by length
    for svg in svgs:
        for element in ElementTree.fromstring(svg).iter():  # noqa: S314 - our own text
            for name, limit in (("cx", 520), ("x", 520), ("cy", 280), ("y", 280)):
                assert 0 <= float(element.get(name, 0)) <= limit
    assert sum(svg.count('class="cross bad"') for svg in svgs) == 2
    assert svgs[0].count('class="limit"') == 1


def test_a_run_without_one_good_answer_has_a_page_too() -> None:
    found = summarize(SETTINGS, OUTCOMES[2:], TARGET, ENVIRONMENT)
    assert latency_rows(found)[0][1:] == ("-",) * 5
    assert found["goodput"]["share"] == 0
    assert "2 of 2 requests failed" in read(render_page(found)).text


def test_a_single_request_of_one_token() -> None:
    alone = [outcome(0, 0.0, 0.2, output_tokens=1)]
    found = summarize(replace(SETTINGS, slo=None), alone, TARGET, ENVIRONMENT)
    assert found["latency"]["tpot_s"] is None and found["latency"]["itl_s"] is None
    assert found["itl_percentiles_s"] is None and found["goodput"] is None
    assert found["rates"]["arrivals_per_s"] is None
    read(render_page(found))


def test_requests_in_flight(report: dict[str, Any]) -> None:
    assert in_flight(report["samples"]) == [
        (0.0, 1), (0.4, 0), (0.5, 1), (1.0, 2), (1.3, 1), (1.5, 2), (1.6, 1), (2.0, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("high", [1e-6, 0.037, 1.0, 7.3, 99.0, 12_345.0, 9e9])
def test_ticks_are_round_and_few(high: float) -> None:
    ticks = Axis("x", 0.0, high).ticks()
    assert 3 <= len(ticks) <= 8
    assert ticks[0] == 0 and ticks[-1] <= high * (1 + 1e-9)
    assert f"{ticks[1]:.0e}"[0] in "125"
