"""The example: its file is whole, its references score 1, its arithmetic is that of the page."""

from __future__ import annotations

import json
from datetime import date
from fractions import Fraction
from pathlib import Path

import pytest

from headrace.economics.price_files import open_price_book
from headrace.planner.journal import Journal
from headrace.planner.plan import make_plan
from headrace.planner.plan_text import conclusions
from headrace.planner.profile import Profile
from headrace.planner.workload import Workload
from headrace.planner.workload_file import read_workload

FOLDER = Path(__file__).parents[3] / "examples" / "media_company"


@pytest.fixture(scope="module")
def workload() -> Workload:
    return read_workload(FOLDER / "workload.yaml")


def test_every_article_has_what_the_prompts_and_metrics_name(
    workload: Workload, tmp_path: Path
) -> None:
    profile = Profile(workload, Journal(tmp_path / "none.jsonl"))
    references = {"summarize": "reference_summary", "categorize": "category", "seo": "seo"}
    for name, field in references.items():
        metric, samples = profile.metrics[name], workload.tasks[name].call.samples
        assert len(samples) >= 30
        for sample in samples:
            value = sample.fields[field]
            best = value if isinstance(value, str) else json.dumps(value)
            row = metric.row(sample, best)
            # A mean's columns are score and count; F1's best is as many hits as labels.
            assert row[0] == 1 if len(row) == 2 else sum(row[::3]) == 1, (name, sample.id)


def test_the_bound_of_categorizing_is_printed_before_anything_is_measured(
    workload: Workload, tmp_path: Path
) -> None:
    profile = Profile(workload, Journal(tmp_path / "none.jsonl"))
    scenario = workload.scenarios[1]
    plan = make_plan(profile, scenario, open_price_book([]), date(2026, 11, 22))
    bound = {bound.task: bound for bound in plan.declared}["categorize"]
    assert (bound.low, bound.high) == (Fraction(1, 8), Fraction(2, 9))
    # 9 million tokens in at 3 dollars, 2 million out at 15.
    assert plan.today_nano_usd == 57_000_000_000
    assert bound.at_price == Fraction(975, 5700)
    text = " ".join(conclusions(plan, workload))
    assert "moving categorize alone saves at most 12.5% to 22.2% under any linear price" in text
    assert "No set of moves saves 45% with every floor held" in text
