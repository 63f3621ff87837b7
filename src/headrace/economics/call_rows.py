"""The usage rows of a call that has ended.

In: its progress, its costs, how it ended. Out: the call's own row, then those of other backends
that worked for it. Knows neither limits nor who keeps rows.
"""

from __future__ import annotations

import json
from typing import Any

from headrace.core.end_user import NOBODY, EndUser, digest_of
from headrace.core.frozen import frozen
from headrace.core.usage import Usage
from headrace.economics.call_costs import CallCosts
from headrace.economics.call_parts import CallPart
from headrace.economics.call_progress import CallProgress
from headrace.economics.cost import Cost
from headrace.economics.prices import LOCAL
from headrace.economics.usage_row import UsageRow, UsageSource, new_row_id

_Columns = dict[str, Any]
_TIMES = ("queue_s", "prefill_s", "decode_s", "prefill_compute_s", "decode_compute_s")


@frozen
class CallOutcome:
    """How a call ended. `task` is what its caller said that it is about, `end_user` for whom."""

    ended_s: float
    http_status: int | None
    error: str | None
    task: str | None
    end_user: EndUser = NOBODY


def make_rows(progress: CallProgress, costs: CallCosts, outcome: CallOutcome) -> list[UsageRow]:
    """The call's own row, then those of other backends that worked for it."""
    main, *others = costs.parts()
    shared, accepted_at_ms = _of_call(progress, outcome), int(progress.accepted_at_s * 1000)
    row = UsageRow(
        row_id=new_row_id(accepted_at_ms),
        **shared,
        **_of_end(progress, outcome),
        **_of_part(progress, costs, main),
        attempt=None if main.tier is None else len(others) + 1,
    )
    return [
        row,
        *(
            UsageRow(
                row_id=new_row_id(accepted_at_ms),
                **shared | {"route_reason": part.note or row.route_reason},
                **_of_part(progress, costs, part),
                error=part.error,
                attempt=place,
                is_part=1,
            )
            for place, part in enumerate(others, 1)
        ),
    ]


def error_name(error: BaseException | None) -> str | None:
    """A short name that reports can group by: never the message, which may quote the request."""
    if error is None:
        return None
    return getattr(error, "code", None) or type(error).__name__


def _of_call(progress: CallProgress, outcome: CallOutcome) -> _Columns:
    """What every row of the call says."""
    facts, route = progress.facts, progress.route()
    tenant, end_user = facts.caller.tenant, outcome.end_user
    return {
        "request_id": facts.request_id,
        "accepted_at_ms": int(progress.accepted_at_s * 1000),
        "day": progress.day.isoformat(),
        "tenant": tenant,
        "key_id": facts.caller.key_id,
        "operation": facts.operation,
        "tags": json.dumps(facts.tags) if facts.tags else None,
        "task": outcome.task if route is None else route.task,
        "route_reason": None if route is None else route.reason,
        "user_digest": digest_of(tenant, end_user.user),
        "safety_digest": digest_of(tenant, end_user.safety_identifier),
        "cache_key_digest": digest_of(tenant, end_user.prompt_cache_key),
    }


def _of_end(progress: CallProgress, outcome: CallOutcome) -> _Columns:
    """What the call's own row says alone: times, and how it ended."""
    times = [attempt.times for attempt in progress.attempts if attempt.times is not None]
    first_s = progress.first_output_s
    return {
        **{
            name: sum(getattr(spent, name) for spent in times) if times else None for name in _TIMES
        },
        "first_token_s": None if first_s is None else first_s - progress.begin_s,
        "duration_s": outcome.ended_s - progress.begin_s,
        "finish_reason": progress.finish_reason,
        "error": outcome.error,
        "http_status": outcome.http_status,
    }


def _of_part(progress: CallProgress, costs: CallCosts, part: CallPart) -> _Columns:
    """The tokens of a part, and what they cost."""
    # A routed request says itself what is estimated of it.
    is_routed = part.tier is not None
    asked = [] if is_routed else progress.attempts
    measured = part.usages if is_routed else [a.usage for a in asked if a.usage is not None]
    is_known = bool(measured) or is_routed or not asked
    usage, cost = sum(measured, Usage()), costs.price(part)
    columns = {
        "model": part.model if is_routed else progress.model,
        "provider": part.provider if is_routed or progress.model is not None else None,
        "tier": part.tier,
        "backend": part.backend,
        "usage_source": _usage_source(progress, part, usage),
        "input_tokens": usage.input_tokens if is_known else None,
        "cached_input_tokens": usage.cached_input_tokens if is_known else None,
        "output_tokens": usage.output_tokens if is_known else None,
        "reasoning_tokens": usage.reasoning_tokens if is_known else None,
        "rejected_draft_tokens": usage.rejected_draft_tokens if is_known else None,
        "estimated_input_tokens": sum(a.estimated_input_tokens for a in asked if not a.usage),
        "cache_write_tokens": usage.cache_write_tokens if is_known else None,
        "cache_write_1h_tokens": usage.cache_write_1h_tokens if is_known else None,
    }
    return columns if cost is None else columns | _of_cost(cost)


def _usage_source(progress: CallProgress, part: CallPart, usage: Usage) -> UsageSource:
    if not progress.attempts or (part.tier is not None and not part.usages):
        return "none"
    is_known = part.tier is not None or all(attempt.usage for attempt in progress.attempts)
    if usage.is_estimated or not is_known:
        return "estimated"
    return "measured" if part.provider == LOCAL else "reported"


def _of_cost(cost: Cost) -> _Columns:
    rates = cost.rates
    return {
        "price_state": cost.state,
        "price_id": None if cost.price is None else cost.price.id,
        "input_rate": rates.input,
        "cached_input_rate": rates.cached_input,
        "cache_write_rate": rates.cache_write,
        "cache_write_1h_rate": rates.cache_write_1h,
        "output_rate": rates.output,
        "reasoning_rate": rates.reasoning,
        "cost_nano_usd": cost.nano_usd,
        "marginal_nano_usd": cost.marginal_nano_usd,
    }
