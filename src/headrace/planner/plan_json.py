"""A plan as JSON, for programs: a router's rules, a dashboard, a later comparison.

In: a WorkloadPlan. Out: plain values; money in whole nano-dollars, shares as fractions of one.
"""

from __future__ import annotations

from dataclasses import asdict
from fractions import Fraction
from typing import Any

from headrace.planner.agreement import agreements
from headrace.planner.bounds import Bound
from headrace.planner.optimizer import Assignment
from headrace.planner.plan import WorkloadPlan
from headrace.planner.plan_text import assumptions, conclusions
from headrace.planner.profile import Profile

VERSION = 1


def plan_json(plan: WorkloadPlan, profile: Profile) -> dict[str, Any]:
    """The whole plan."""
    return {
        "headrace_plan": VERSION,
        "workload": profile.workload.name,
        "workload_digest": profile.workload.digest,
        "scenario": asdict(plan.scenario),
        "day": plan.day.isoformat(),
        "prices": {
            name: None if price is None else price.price.id for name, price in plan.prices.items()
        },
        "today_nano_usd": plan.today_nano_usd,
        "target": plan.target,
        "bounds": [_bound(bound) for bound in plan.bounds],
        "declared_bounds": [_bound(bound) for bound in plan.declared],
        "moves": [
            {
                **asdict(effect.move),
                "most": _share(effect.most),
                "saving": _share(effect.saving),
                "why_not": list(effect.option.why_not),
            }
            for effect in plan.effects
        ],
        "options": [asdict(option) for option in plan.options],
        "cheapest": _assignment(plan, plan.cheapest),
        "smallest": _assignment(plan, plan.smallest),
        "cheapest_without_floors": _assignment(plan, plan.unbound),
        "conclusions": list(conclusions(plan, profile.workload)),
        "assumptions": list(assumptions(plan, profile)),
        "judges": [asdict(found) for found in agreements(profile)],
    }


def _assignment(plan: WorkloadPlan, assignment: Assignment | None) -> dict[str, Any] | None:
    if assignment is None:
        return None
    return {
        "nano_usd": assignment.nano_usd,
        "saving": _share(plan.saving(assignment)),
        "num_moves": assignment.num_moves,
        "calls": [
            {
                "call": option.call,
                "tasks": list(option.tasks),
                "tier": option.tier,
                "batch": option.is_batch,
                "prefix_cache": option.has_prefix_cache,
                "max_tokens": option.max_tokens,
            }
            for option in assignment.options
        ],
    }


def _bound(bound: Bound) -> dict[str, Any]:
    return {
        "task": bound.task,
        "low": float(bound.low),
        "high": float(bound.high),
        "at_price": _share(bound.at_price),
    }


def _share(share: Fraction | None) -> float | None:
    return None if share is None else float(share)
