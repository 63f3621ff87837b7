"""FairShare: ranks by which tenants get equal shares of the tokens, whatever each one asks for.

In: arrivals, admissions, ends. Out: a rank per request. A tenant's requests are laid end to end on
a line of virtual time, each as long as it is expected to cost, and run in the order in which they
begin there. A tenant that comes back begins at the present: nobody saves up, nobody pays for having
used an idle machine. Among the requests of one tenant the order is that of arrival.
Source: start-time fair queueing, Goyal et al. 1996; costs as in arXiv 2401.00588.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from headrace.sched.request_state import RequestSpec, RequestState

Rank = tuple[int, ...]

OUTPUT_WEIGHT = 2
"""A generated token against one of a prompt."""
FIRST_GUESS = 128
"""Tokens of an answer before any has ended."""
_MAX_IDLE_TENANTS = 1000


@dataclass(slots=True)
class _Line:
    """A tenant's place in virtual time, in weighted tokens.

    `starts` are where its open requests begin, ascending: the next one overtakes none of them.
    """

    end: int = 0
    starts: list[int] = field(default_factory=list)


class VirtualTime:
    """The lines of all tenants, and how far the present is on them."""

    def __init__(self) -> None:
        self._now = 0
        self._lines: dict[str, _Line] = {}

    @property
    def is_idle(self) -> bool:
        """Whether nobody has an open request."""
        return not any(line.starts for line in self._lines.values())

    def enter(self, tenant: str, cost: int) -> int:
        """Where a request of a tenant begins, behind its others or at the present."""
        if len(self._lines) > _MAX_IDLE_TENANTS:
            self._forget_idle()
        line = self._lines.setdefault(tenant, _Line())
        start = max(self._now, line.end, *line.starts[-1:])
        line.end = start + cost
        line.starts.append(start)
        return start

    def reach(self, start: int) -> None:
        """The present is where the request that runs last begins."""
        self._now = max(self._now, start)

    def leave(self, tenant: str, start: int, correction: int) -> None:
        """A request is over, and has cost so much more than it was expected to."""
        line = self._lines[tenant]
        line.end += correction
        del line.starts[bisect_left(line.starts, start)]

    def _forget_idle(self) -> None:
        """Tenants of which nothing is left begin at the present when they come again."""
        self._lines = {tenant: line for tenant, line in self._lines.items() if line.starts}


class FairShare:
    """A RankPolicy. What a request cost is known when it ends, and counts for the next ones."""

    def __init__(self) -> None:
        self._time = VirtualTime()
        self._expected: dict[str, int] = {}
        self._mean_output = float(FIRST_GUESS)

    def rank(self, spec: RequestSpec, arrival: int) -> Rank:
        """The beginning of a request in virtual time, then its arrival."""
        cost = self._expected[spec.request_id] = self._expected_cost(spec)
        return (self._time.enter(spec.tenant, cost), arrival)

    def started(self, request: RequestState) -> None:
        """See RankPolicy."""
        self._time.reach(request.rank[-2])

    def ended(self, request: RequestState) -> None:
        """Correct the tenant's line by what was computed."""
        spec = request.spec
        num_output = len(request.token_ids) - request.num_prompt_tokens
        num_prompt = min(request.num_computed_tokens, request.num_prompt_tokens)
        cost = max(num_prompt - request.num_cached_tokens, 0) + OUTPUT_WEIGHT * num_output
        if num_output:
            self._mean_output += (num_output - self._mean_output) / 16
        correction = cost - self._expected.pop(spec.request_id)
        self._time.leave(spec.tenant, request.rank[-2], correction)

    def _expected_cost(self, spec: RequestSpec) -> int:
        num_output = min(spec.max_tokens, max(1, round(self._mean_output)))
        return len(spec.prompt_token_ids) + OUTPUT_WEIGHT * num_output
