"""Where a request was served, and why: what a router says of a stream that it made.

In: decisions, and how each attempt ended. Out: frozen records that headers, the ledger and receipts
are made of. Holds neither prompt nor answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from headrace.core.backend import ModelInfo
from headrace.core.request import GenerateRequest
from headrace.core.usage import Usage

# answered: what it said was sent. escalated: it will not do, and another is asked. failed: it
# broke. left: nobody waited for it any more.
AttemptOutcome = Literal["running", "answered", "escalated", "failed", "left"]
# bypass: answers to such a request are not kept, or the caller wanted none of it.
CacheStatus = Literal["hit", "miss", "bypass"]


@dataclass(frozen=True, slots=True)
class RouteAttempt:
    """A backend that was asked. `usage` is None where nothing is owed for it.

    `error` names what failed; `backend` is upstream/model, or the model alone where it runs here.
    """

    tier: str
    backend: str
    model: str
    provider: str
    outcome: AttemptOutcome
    usage: Usage | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A request's way. The last attempt is the one that answers, or did.

    `reason` is a few words: `task`, `rule long`, `default`, `tier`. `task` was declared. `cache` is
    None where no answers are kept; of an old answer there are no attempts.
    """

    tier: str
    reason: str
    task: str | None = None
    confidence: float | None = None
    attempts: tuple[RouteAttempt, ...] = ()
    cache: CacheStatus | None = None

    @property
    def num_fallbacks(self) -> int:
        """Backends that failed before the one that answers."""
        return sum(attempt.outcome == "failed" for attempt in self.attempts[:-1])


@runtime_checkable
class Routed(Protocol):
    """A stream that says where it comes from, at any time."""

    @property
    def route(self) -> Route: ...


@runtime_checkable
class Routes(Protocol):
    """A Backend that sends requests to others."""

    def payable(self, request: GenerateRequest) -> Sequence[ModelInfo]:
        """Every model that may have to be paid for one answer, each as often. Raises: as generate.

        Budgets hold what all of them cost at most.
        """
        ...
