"""A plan as tiers of a router: written, read back, and obeyed by the real one."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fakes.fake_backend import FakeBackend
from fakes.workload_files import answer_to, workload_tree, write_workload
from headrace.config.routing import read_routing
from headrace.core.backend import ModelInfo
from headrace.core.errors import ConfigError
from headrace.core.message import Message
from headrace.core.request import GenerateRequest
from headrace.core.telemetry import NoMetrics
from headrace.economics.price_files import open_price_book
from headrace.launch.prices import tier_prices
from headrace.launch.tiers import open_tiers
from headrace.planner.journal import Journal
from headrace.planner.plan import WorkloadPlan, make_plan
from headrace.planner.profile import Profile
from headrace.planner.tier_rules import render_tiers
from headrace.planner.workload import Workload
from headrace.planner.workload_file import read_workload

DAY = date(2026, 11, 22)


def planned(folder: Path, tree: dict[str, Any]) -> tuple[WorkloadPlan, Workload]:
    """Labels are right on both tiers, summaries on the large one alone."""
    tree["tasks"]["label"]["floor"] = {"within": 0.5}
    workload = read_workload(write_workload(folder, tree))
    journal = Journal(folder / "p.jsonl")
    for call in workload.calls:
        for name in ("large", "small"):
            for sample in call.samples:
                is_known = call.name == "label" or name == "large"
                text = sample.fields["label" if call.name == "label" else "summary"]
                said = text if is_known else "nothing of it"
                journal.add(answer_to(call, workload.tiers[name], sample, said))
    profile = Profile(workload, journal)
    return make_plan(profile, workload.scenarios[0], open_price_book([]), DAY), workload


def written(folder: Path, tree: dict[str, Any]) -> Path:
    plan, workload = planned(folder, tree)
    assert plan.cheapest is not None
    path = folder / "tiers.yaml"
    path.write_text(render_tiers(plan, workload, plan.cheapest))
    return path


def own_machines() -> dict[str, Any]:
    tree = workload_tree()
    tree["tiers"] = {
        "large": {"model": "tiny", "usd_per_hour": Decimal("0.15"), "utilization": Decimal("0.5")},
        "small": {"model": "tinier", "usd_per_hour": Decimal("0.05"), "utilization": 1},
    }
    tree["tiers"] = {name: {k: float(v) if isinstance(v, Decimal) else v for k, v in tier.items()}
                     for name, tier in tree["tiers"].items()}  # fmt: skip
    tree["tasks"]["summarize"]["latency"] = {"ttft_s": 2, "e2e_s": 60}
    return tree


async def test_the_router_sends_each_task_where_the_plan_says(tmp_path: Path) -> None:
    config = read_routing(written(tmp_path, own_machines()))
    assert config.tasks == {"label": "small", "summarize": "large"}
    assert (config.default, config.local_models) == ("large", ("tiny", "tinier"))
    small, large = sorted(config.tiers, key=lambda tier: tier.name, reverse=True)
    assert (small.fallback, large.fallback, large.ttft_target_s) == ("large", None, 2.0)
    assert small.note.startswith("label 1.000 [")
    here = _TwoModels()
    router, close = open_tiers(config, here, NoMetrics(), {})
    try:
        for task, model in (("label", "tinier"), ("summarize", "tiny")):
            await _ask(router, f"auto/{task}")
            assert here.requests[-1].model == model
    finally:
        close()


def test_prices_of_own_machines_are_those_of_the_plan(tmp_path: Path) -> None:
    plan, workload = planned(tmp_path, own_machines())
    assert plan.cheapest is not None
    path = tmp_path / "tiers.yaml"
    path.write_text(render_tiers(plan, workload, plan.cheapest))
    found = {price.model: price.standard.rates for price in tier_prices(read_routing(path))}
    for name, tier in workload.tiers.items():
        price = plan.prices[name]
        assert price is not None and found[tier.model] == price.price.standard.rates


def test_tiers_elsewhere_keep_address_key_and_price(tmp_path: Path) -> None:
    tree = workload_tree()
    tree["tiers"] = {
        "large": {
            "model": "claude-sonnet-4-6",
            "url": "https://far.example/v1",
            "api_kind": "anthropic",
            "api_key": "env:FAR_KEY",
            "price": "anthropic/claude-sonnet-4-6",
        },
        "small": {
            "model": "our-name",
            "url": "https://near.example/v1",
            "price": "openai/gpt-5-mini",
            "refuses": ["seed", "structured_outputs"],
        },
    }
    config = read_routing(written(tmp_path, tree))
    far, near = config.upstreams
    assert (far.kind, far.api_key, far.provider) == ("anthropic", "env:FAR_KEY", "anthropic")
    assert (near.url, near.refuses) == ("https://near.example/v1", ("seed",))
    (small,) = (tier.backends[0] for tier in config.tiers if tier.name == "small")
    # The book has no price under this name, so the file brings it; the other's it has.
    (price,) = tier_prices(config)
    assert (price.provider, price.model, small.model) == ("openai", "our-name", "our-name")
    book = open_price_book([]).find("openai", "gpt-5-mini", DAY)
    assert book is not None and price.standard == book.standard


def test_what_callers_have_to_do_stands_in_comments(tmp_path: Path) -> None:
    tree = workload_tree()
    tree["name"] = "two\nlines: [#"
    text = written(tmp_path, tree).read_text()
    assert "# The saving needs of callers, for summarize: send it through /v1/batches." in text
    assert text.startswith("# two lines: [#, all tiers: saves ")


def test_tiers_that_only_have_a_price_are_no_tiers(tmp_path: Path) -> None:
    tree = workload_tree()
    tree["tiers"]["what-if"] = {"stands_in": "small", "price": "openai/gpt-5-nano"}
    del tree["tiers"]["small"]["price"]
    plan, workload = planned(tmp_path, tree)
    assert plan.cheapest is not None
    with pytest.raises(ConfigError, match="what-if has a price and no address"):
        render_tiers(plan, workload, plan.cheapest)


def test_names_that_no_header_can_carry_are_refused(tmp_path: Path) -> None:
    tree = workload_tree()
    tree["tasks"]["summarize it"] = tree["tasks"].pop("summarize")
    plan, workload = planned(tmp_path, tree)
    assert plan.cheapest is not None
    with pytest.raises(ConfigError, match="summarize it"):
        render_tiers(plan, workload, plan.cheapest)


class _TwoModels(FakeBackend):
    """A machine with both models of the workload."""

    def models(self) -> tuple[ModelInfo, ...]:
        return (ModelInfo("tiny", 1000, 0, "tiny"), ModelInfo("tinier", 1000, 0, "tinier"))


async def _ask(router: Any, model: str) -> None:
    request = GenerateRequest(request_id="r", model=model, messages=(Message("user", "x"),))
    async for _ in await router.generate(request):
        pass
