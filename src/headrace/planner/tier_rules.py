"""A plan as settings of a router: tiers, where they run, and the task that each one serves.

In: a plan and the assignment that was chosen from it. Out: the text of a YAML file for
`headrace serve --config`. What a router cannot do (batches, a smaller max_tokens, one call for
several tasks) stands in its comments, for whoever makes the calls. Raises: ConfigError.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from headrace.core.errors import ConfigError
from headrace.core.routing_options import check_name
from headrace.economics.prices import KINDS, LOCAL, NANO_USD, Rates
from headrace.planner.optimizer import Assignment
from headrace.planner.options import Option
from headrace.planner.plan import WorkloadPlan
from headrace.planner.plan_text import quality_text, saving_text
from headrace.planner.tier_price import TierPrice
from headrace.planner.workload import FORM_FIELD, Tier, Workload

_FLAG = "--write-tiers"
_BY_CALLER = {
    "batch": "send it through /v1/batches",
    "prefix_cache": "put the common beginning first, and keep it the same",
    "max_tokens": "ask with max_tokens {max_tokens}",
    "merge": "one call for {tasks}, asked as auto/{call}",
}


def render_tiers(plan: WorkloadPlan, workload: Workload, chosen: Assignment) -> str:
    """The whole file."""
    calls = {option.call: option for option in chosen.options}
    tasks = {name: option.tier for name, option in calls.items()}
    # A task that is part of a merged call may still come alone: then as today.
    for name in workload.tasks:
        tasks.setdefault(name, plan.scenario.baseline)
    used = dict.fromkeys((plan.scenario.baseline, *tasks.values()))
    tiers = [workload.tiers[name] for name in used]
    for name in (*used, *tasks):
        check_name(name, _FLAG)
    _check_real(plan, tiers)
    upstreams = {tier.name: _upstream(tier) for tier in tiers if tier.url is not None}
    tree: dict[str, Any] = {"upstreams": upstreams} if upstreams else {}
    tree["tiers"] = {tier.name: _tier(tier, plan, workload, chosen) for tier in tiers}
    tree["routing"] = {"default": plan.scenario.baseline, "tasks": tasks}
    return "".join((*_comments(plan, workload, calls), *_lines(tree)))


def _check_real(plan: WorkloadPlan, tiers: list[Tier]) -> None:
    for tier in tiers:
        if tier.stands_in is not None:
            allowed = "a scenario whose tiers run somewhere"
            hint = f"{tier.name} has a price and no address: give it model and url."
            raise ConfigError(_FLAG, plan.scenario.name, allowed, hint)


def _upstream(tier: Tier) -> dict[str, Any]:
    found: dict[str, Any] = {"url": tier.url}
    if tier.api_kind != "openai":
        found["kind"] = tier.api_kind
    if tier.api_key is not None:
        found["api_key"] = tier.api_key
    if tier.provider != LOCAL:
        found["provider"] = tier.provider
    refuses = [name for name in tier.refuses if name != FORM_FIELD]
    return found | ({"refuses": refuses} if refuses else {})


def _tier(tier: Tier, plan: WorkloadPlan, workload: Workload, chosen: Assignment) -> dict[str, Any]:
    backend: dict[str, Any] = {"model": tier.model}
    if tier.url is not None:
        backend["upstream"] = tier.name
    price = plan.prices[tier.name]
    # One that the book has under the same names is found there, and stays up to date.
    if price is not None and (price.is_own or tier.price_model != tier.model):
        backend["price"] = _price(price)
    found: dict[str, Any] = {"backends": [backend]}
    if tier.name != plan.scenario.baseline:
        found["fallback"] = plan.scenario.baseline
    served = [option for option in chosen.options if option.tier == tier.name]
    scores = [
        f"{task} {quality_text(quality)}"
        for option in served
        for task, quality in option.quality.items()
    ]
    if scores:
        found["note"] = ", ".join(scores)
    latencies = (workload.tasks[task].latency for option in served for task in option.tasks)
    limits = [each.ttft_s for each in latencies if each is not None and each.ttft_s is not None]
    return found | ({"ttft_target_s": min(limits)} if limits else {})


def _price(price: TierPrice) -> dict[str, Any]:
    schedule = price.price.standard
    found: dict[str, Any] = _rates(schedule.rates)
    if schedule.tiers:
        found["above"] = [
            {"input_tokens": tier.above_input_tokens} | _rates(tier.rates)
            for tier in schedule.tiers
        ]
    return found


def _rates(rates: Rates) -> dict[str, Decimal]:
    """Dollars per million, exactly."""
    pairs = ((kind, getattr(rates, kind)) for kind in KINDS)
    return {
        f"{kind}_per_1m": Decimal(found) / NANO_USD for kind, found in pairs if found is not None
    }


def _comments(plan: WorkloadPlan, workload: Workload, calls: Mapping[str, Option]) -> Iterator[str]:
    saving = saving_text(plan, Assignment(tuple(calls.values())))
    yield f"# {_plain(workload.name)}, {_plain(plan.scenario.name)}: {saving}.\n"
    yield f"# Made by `headrace plan` at prices of {plan.day}, workload {workload.digest}.\n"
    yield "# headrace serve --config THIS_FILE; a call names its task: model auto/TASK.\n"
    for option in calls.values():
        for move in option.moves:
            words = _BY_CALLER.get(move.kind)
            if words is not None:
                shown = words.format(
                    max_tokens=option.max_tokens, tasks=" and ".join(option.tasks), call=option.call
                )
                yield f"# The saving needs of callers, for {_plain(option.call)}: {shown}.\n"


def _plain(text: str) -> str:
    """A text that stays within its comment."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def _lines(tree: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """YAML: a line for each key; what is no map is written as JSON, which YAML includes."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{json.dumps(key)}:\n"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{json.dumps(key)}: {_flow(value)}\n"


def _flow(value: Any) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return json.dumps(value)
