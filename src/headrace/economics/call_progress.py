"""CallProgress: what is known of a call, and how far each of its requests has come.

In: facts of the call, outputs as they go by. Out: the state that costs and usage rows are made of.
`metered.Metered` alone writes it. Knows neither prices nor limits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from headrace.core.errors import BatchStopped, ServerStopping
from headrace.core.frozen import frozen
from headrace.core.output import RequestOutput, RequestTimes
from headrace.core.request import GenerateRequest
from headrace.core.routing import Route, Routed
from headrace.core.stores import Caller
from headrace.core.tracing import TraceContext
from headrace.core.usage import Usage
from headrace.economics.rate_limits import Reservation


@frozen
class CallFacts:
    """What is known of a call before it is read."""

    request_id: str
    operation: str
    caller: Caller
    patience_s: float | None = None
    # Served when nothing else is to be done: batches.
    is_background: bool = False
    tags: tuple[str, ...] = ()
    trace: TraceContext | None = None


@dataclass(slots=True)
class Attempt:
    """A request that the backend has taken. `usage` is None until an output says it."""

    request: GenerateRequest
    estimated_input_tokens: int
    held: Reservation | None
    usage: Usage | None = None
    times: RequestTimes | None = None
    end_s: float | None = None
    is_finished: bool = False
    finish_reasons: set[str] = field(default_factory=set)
    routed: Routed | None = None

    @property
    def billed(self) -> Usage:
        """What was used, or as much of the prompt as is known by its length."""
        if self.routed is not None:
            usages = (attempt.usage for attempt in self.routed.route.attempts)
            return sum((usage for usage in usages if usage is not None), Usage())
        return self.usage or Usage(input_tokens=self.estimated_input_tokens)

    def note(self, output: RequestOutput) -> None:
        """Keep what an output says; when it ended is the caller's to say."""
        self.usage = output.usage
        for delta in output.deltas:
            if delta.finish_reason is not None:
                self.finish_reasons.add(delta.finish_reason)
        if output.is_finished:
            self.is_finished, self.times = True, output.times


@dataclass(slots=True)
class CallProgress:
    """Of one call. Units: `begin_s` and `first_output_s` by a clock that only goes forward."""

    facts: CallFacts
    begin_s: float
    accepted_at_s: float  # of Unix
    model: str | None = None
    first_output_s: float | None = None
    error: BaseException | None = None
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def is_answered(self) -> bool:
        """Whether there was a request, and every one of them is complete."""
        return bool(self.attempts) and all(attempt.is_finished for attempt in self.attempts)

    @property
    def day(self) -> date:
        """Prices of this day hold for it."""
        return datetime.fromtimestamp(self.accepted_at_s, UTC).date()

    @property
    def finish_reason(self) -> str | None:
        """Of every answer, joined by a comma; `abort` or `error` for what was cut off."""
        reasons = {reason for attempt in self.attempts for reason in attempt.finish_reasons}
        if any(not attempt.is_finished for attempt in self.attempts):
            is_fault = not isinstance(self.error, BatchStopped | ServerStopping | None)
            reasons.add("error" if is_fault else "abort")
        return ",".join(sorted(reasons)) or None

    def routes(self) -> list[Route]:
        """The way of each request, where something is routed."""
        return [attempt.routed.route for attempt in self.attempts if attempt.routed is not None]

    def route(self) -> Route | None:
        """Where the first request is served; None where nothing is routed."""
        routes = self.routes()
        return routes[0] if routes else None
