"""What a call owes to each backend that worked for it.

In: the routes of a call's requests. Out: parts, each of one model at one backend: the first is the
one that answered and has the call's own row, the others have rows beside it. Knows no prices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from headrace.core.routing import Route, RouteAttempt
from headrace.core.usage import Usage
from headrace.economics.cost import UNPRICED, Cost

# Work that was not to be the answer, or came too late to be it.
_NOTES = {"checked": "self-check", "left": "hedge"}


@dataclass(slots=True)
class CallPart:
    """One backend's work for a call. `usages` are of its requests.

    `note` says what it was for, where it was not to answer.
    """

    model: str
    provider: str
    tier: str | None = None
    backend: str | None = None
    error: str | None = None
    usages: list[Usage] = field(default_factory=list)
    note: str | None = None


def parts_of(routes: Iterable[Route]) -> list[CallPart]:
    """Who is owed something, and who answered even where it is owed nothing."""
    parts: dict[tuple[str, str, str | None], CallPart] = {}
    answering = [route.attempts[-1] for route in routes if route.attempts]
    earlier = [attempt for route in routes for attempt in route.attempts[:-1]]
    noted = [(attempt, _NOTES.get(attempt.outcome)) for attempt in earlier]
    for attempt, note in (*((attempt, None) for attempt in answering), *noted):
        is_main = not parts
        if attempt.usage is None and not is_main:
            continue
        part = parts.setdefault((attempt.tier, attempt.backend, note), _part(attempt, note))
        if attempt.usage is not None:
            part.usages.append(attempt.usage)
    return list(parts.values())


def add_costs(costs: Sequence[Cost]) -> Cost:
    """The cost of all, with the price of the first; one that is not known makes the sum unknown."""
    first = costs[0]
    if len(costs) == 1:
        return first
    known = [cost.nano_usd for cost in costs if cost.nano_usd is not None]
    marginal = [cost.marginal_nano_usd for cost in costs if cost.marginal_nano_usd is not None]
    if len(known) < len(costs) or len(marginal) < len(costs):
        return replace(UNPRICED, price=first.price, rates=first.rates)
    states = [cost.state for cost in costs]
    state = next((s for s in ("stale", "priced") if s in states), first.state)
    return replace(first, state=state, nano_usd=sum(known), marginal_nano_usd=sum(marginal))


def _part(attempt: RouteAttempt, note: str | None) -> CallPart:
    names = (attempt.model, attempt.provider, attempt.tier, attempt.backend, attempt.error)
    return CallPart(*names, note=note)
