"""Where a request was served, and why: what a router says of a stream that it made.

In: decisions, and how each attempt ended. Out: frozen records that headers, the ledger and receipts
are made of. Holds neither prompt nor answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from headrace.core.backend import ModelInfo
from headrace.core.frozen import frozen
from headrace.core.request import GenerateRequest
from headrace.core.usage import Usage

# answered: what it said was sent. escalated: it will not do, and another is asked. checked: it said
# whether another's answer is right. failed: it broke. left: nobody waited for it any more.
AttemptOutcome = Literal["running", "answered", "escalated", "checked", "failed", "left"]
# semantic: an answer to a question that means the same. bypass: answers to such a request are not
# kept, or the caller wanted none of it.
CacheStatus = Literal["hit", "semantic", "miss", "bypass"]


@frozen
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


@frozen
class Route:
    """A request's way. The last attempt is the one that answers, or did.

    `reason` is a few words: `task`, `rule long`, `default`, `tier`. `task` was declared. `cache` is
    None where no answers are kept; of an old answer there are no attempts. `similarity` is that of
    the question it was given to.
    """

    tier: str
    reason: str
    task: str | None = None
    confidence: float | None = None
    attempts: tuple[RouteAttempt, ...] = ()
    cache: CacheStatus | None = None
    similarity: float | None = None

    @property
    def num_fallbacks(self) -> int:
        """Backends that failed before the one that answers; tries of that one are none."""
        if not self.attempts:
            return 0
        name = self.attempts[-1].backend
        return sum(a.outcome == "failed" and a.backend != name for a in self.attempts[:-1])


class Routed(ABC):
    """A stream that says where it comes from, at any time. A class: every request is asked."""

    @property
    @abstractmethod
    def route(self) -> Route:
        """Where it is now."""


class Retried:
    """A stream of a server that may have been asked more than once for it.

    `num_in_doubt` tries brought nothing, and the server may bill them all the same.
    """

    num_in_doubt: int = 0


@frozen
class Payable:
    """A model that may have to be paid, and a request that costs no less than what it is asked."""

    info: ModelInfo
    request: GenerateRequest


@runtime_checkable
class Routes(Protocol):
    """A Backend that sends requests to others."""

    def payable(self, request: GenerateRequest) -> Sequence[Payable]:
        """All that may have to be paid for one answer. Raises: as generate.

        Budgets hold what all of it costs at most.
        """
        ...
