"""A workload file: YAML to a Workload, with everything that it names checked.

In: a path. Out: a Workload. Paths in the file start from its own folder. Raises: ConfigError that
names the key. Opens no connection and runs no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

from headrace.config.yaml_text import read_yaml
from headrace.core.config_checks import check_known
from headrace.core.errors import ConfigError
from headrace.core.upstreams import UpstreamKind
from headrace.economics.prices import LOCAL
from headrace.planner.entry import Entry
from headrace.planner.sample_file import read_text
from headrace.planner.task_file import TaskReader
from headrace.planner.workload import Evidence, Scenario, Task, Tier, Workload

_TOP = (
    *("name", "note", "tiers", "tasks", "merged", "scenarios", "baseline", "target_saving"),
    *("evidence", "confidence"),
)
_TIER = (
    *("model", "url", "api_kind", "api_key", "refuses", "price", "usd_per_hour"),
    *("utilization", "off_peak_utilization", "stands_in", "cache_floor_tokens"),
)


def read_workload(path: Path) -> Workload:
    """Read and check it all."""
    text = read_text(path, "workload")
    try:
        tree = read_yaml(text.encode(), is_exact=True)
    except ValueError as error:
        raise ConfigError("workload", str(path), "YAML text", str(error)) from None
    top = Entry(tree, path.name, _TOP)
    tiers = {name: _read_tier(name, part) for name, part in top.parts("tiers").items()}
    for tier in tiers.values():
        _check_stand_in(tier, tiers)
    reader = TaskReader(path.resolve().parent)
    tasks = {name: reader.read_task(name, part) for name, part in top.parts("tasks").items()}
    _check_judges(tasks, tiers)
    merged = tuple(
        reader.read_merged(name, part, tasks)
        for name, part in top.parts("merged", is_needed=False).items()
    )
    for call in merged:
        if call.name in tasks:
            raise ConfigError("merged", call.name, "names that no task has")
    evidence: Evidence = top.choice("evidence", get_args(Evidence), "bound")  # type: ignore[assignment]
    return Workload(
        name=top.text("name", path.stem),
        note=top.text("note", ""),
        tasks=tasks,
        merged=merged,
        tiers=tiers,
        scenarios=_read_scenarios(top, tiers),
        target_saving=top.optional("target_saving", 0, 1),
        evidence=evidence,
        confidence=float(top.number("confidence", 0.5, 0.999, Decimal("0.95"))),
        digest=hashlib.sha256(text.encode()).hexdigest()[:16],
    )


def _read_tier(name: str, tree: Any) -> Tier:
    entry = Entry(tree, f"tiers.{name}", _TIER)
    stands_in = entry.text("stands_in") if "stands_in" in entry else None
    if stands_in is not None and ("model" in entry or "url" in entry):
        raise entry.refuse("stands_in", "a tier of its own without model and url")
    provider, _, price_model = entry.text("price", "").partition("/")
    if "price" in entry and not (provider and price_model):
        raise entry.refuse("price", "provider/model of the price book: anthropic/claude-sonnet-5")
    if "price" in entry and "usd_per_hour" in entry:
        raise entry.refuse("usd_per_hour", "price or usd_per_hour, not both")
    model = entry.text("model") if stands_in is None else price_model
    if stands_in is not None and not price_model:
        raise entry.refuse("price", "a price: it is all that this tier has of its own")
    for key in ("api_kind", "api_key", "refuses"):
        if key in entry and "url" not in entry:
            raise entry.refuse(key, "only together with url")
    api_kind: UpstreamKind = entry.choice("api_kind", get_args(UpstreamKind), "openai")  # type: ignore[assignment]
    utilization = entry.number("utilization", 0.0001, 1, 1)
    off_peak = None
    if "off_peak_utilization" in entry:
        off_peak = entry.number("off_peak_utilization", float(utilization), 1)
    tier = Tier(
        name=name,
        model=model,
        url=entry.text("url") if "url" in entry else None,
        api_kind=api_kind,
        api_key=entry.text("api_key") if "api_key" in entry else None,
        refuses=entry.texts("refuses"),
        provider=provider or LOCAL,
        price_model=price_model or model,
        usd_per_hour=entry.number("usd_per_hour", 0, 10**5) if "usd_per_hour" in entry else None,
        utilization=utilization,
        off_peak_utilization=off_peak,
        stands_in=stands_in,
        cache_floor_tokens=entry.whole("cache_floor_tokens", 0, 10**6, 1024),
    )
    if tier.url is not None:
        try:
            _ = tier.upstream
        except ConfigError as error:
            where = error.field.replace("upstreams", "tiers", 1)
            raise ConfigError(where, error.value, error.allowed) from None
    return tier


def _check_stand_in(tier: Tier, tiers: Mapping[str, Tier]) -> None:
    if tier.stands_in is not None:
        real = [name for name, other in tiers.items() if other.stands_in is None]
        check_known(f"tiers.{tier.name}.stands_in", tier.stands_in, real)


def _check_judges(tasks: Mapping[str, Task], tiers: Mapping[str, Tier]) -> None:
    real = [name for name, tier in tiers.items() if tier.stands_in is None]
    for task in tasks.values():
        named = {}
        if task.metric.kind == "judge":
            named["metric.model"] = task.metric.model
        if task.judge is not None:
            named["judge"] = task.judge.tier
        for key, name in named.items():
            check_known(f"tasks.{task.name}.{key}", name, real)


def _read_scenarios(top: Entry, tiers: Mapping[str, Tier]) -> tuple[Scenario, ...]:
    if "scenarios" not in top:
        baseline = top.choice("baseline", tuple(tiers))
        return (Scenario("all tiers", baseline, tuple(tiers)),)
    found = []
    for name, tree in top.parts("scenarios").items():
        entry = Entry(tree, f"scenarios.{name}", ("baseline", "tiers"))
        baseline, chosen = entry.choice("baseline", tuple(tiers)), entry.texts("tiers")
        for tier in chosen:
            check_known(entry.place("tiers"), tier, tiers)
        found.append(Scenario(name, baseline, tuple(dict.fromkeys((baseline, *chosen)))))
    return tuple(found)
