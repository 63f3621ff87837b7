"""The requests that wait, in the order in which they will run. Bounded.

In and out: RequestState. A rank, given once on arrival by a RankPolicy, is the whole policy: the
queue is sorted by it, and preemption takes the highest rank first. Background requests come after
all others, whatever the policy. Knows nothing of blocks or budgets.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from headrace.core.errors import CapacityError
from headrace.sched.fair_share import FairShare, Rank
from headrace.sched.request_state import RequestSpec, RequestState


class RankPolicy(Protocol):
    """Who comes first. Told of admissions and ends, for policies that depend on them."""

    def rank(self, spec: RequestSpec, arrival: int) -> Rank:
        """The rank of a request that arrives; `arrival` is unique."""
        ...

    def started(self, request: RequestState) -> None:
        """A request runs for the first time."""
        ...

    def ended(self, request: RequestState) -> None:
        """A request is over, or was taken away."""
        ...


class FirstCome:
    """First come, first served."""

    def rank(self, spec: RequestSpec, arrival: int) -> Rank:
        return (0, arrival)

    def started(self, request: RequestState) -> None:
        pass

    def ended(self, request: RequestState) -> None:
        pass


class Priority(FirstCome):
    """Lower value first, then first come. A steady flow of urgent work starves the rest."""

    def rank(self, spec: RequestSpec, arrival: int) -> Rank:
        return (spec.priority, arrival)


class FairWithin:
    """Priorities first, and fair shares among the requests of each. Lower values starve higher."""

    def __init__(self) -> None:
        self._shares: dict[int, FairShare] = {}
        self._num_open: Counter[int] = Counter()

    def rank(self, spec: RequestSpec, arrival: int) -> Rank:
        """See RankPolicy."""
        share = self._shares.setdefault(spec.priority, FairShare())
        self._num_open[spec.priority] += 1
        return (spec.priority, *share.rank(spec, arrival))

    def started(self, request: RequestState) -> None:
        """See RankPolicy."""
        self._shares[request.spec.priority].started(request)

    def ended(self, request: RequestState) -> None:
        """See RankPolicy. A priority that nobody has any more is forgotten; 0 is everybody's."""
        priority = request.spec.priority
        self._shares[priority].ended(request)
        self._num_open[priority] -= 1
        if priority and not self._num_open[priority]:
            del self._shares[priority], self._num_open[priority]


class BackgroundLast:
    """Interactive requests before background ones, and a policy of its own among each of them.

    A batch costs its tenant no place among interactive requests.
    """

    def __init__(self, make_policy: Callable[[], RankPolicy]) -> None:
        self._interactive, self._background = make_policy(), make_policy()

    def rank(self, spec: RequestSpec, arrival: int) -> Rank:
        """See RankPolicy."""
        return (int(spec.is_background), *self._of(spec).rank(spec, arrival))

    def started(self, request: RequestState) -> None:
        """See RankPolicy."""
        self._of(request.spec).started(request)

    def ended(self, request: RequestState) -> None:
        """See RankPolicy."""
        self._of(request.spec).ended(request)

    def _of(self, spec: RequestSpec) -> RankPolicy:
        return self._background if spec.is_background else self._interactive


RANK_POLICIES: Mapping[str, Callable[[], RankPolicy]] = {
    "fair": FairWithin,
    "fcfs": FirstCome,
    "priority": Priority,
}


class RequestQueue:
    """A list kept sorted by rank. Removal from the middle leaves nothing behind."""

    def __init__(self, max_num_requests: int) -> None:
        self.max_num_requests = max_num_requests
        self._requests: list[RequestState] = []

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[RequestState]:
        return iter(self._requests)

    def check_room(self) -> None:
        """Whether a new request may come. Raises: CapacityError when the queue is full."""
        if len(self._requests) >= self.max_num_requests:
            raise CapacityError(
                f"{len(self._requests)} requests wait already, which is the limit. Try again later."
            )

    def restore(self, request: RequestState) -> None:
        """Add a request, or put back one that was admitted before."""
        insort(self._requests, request, key=_rank)

    @property
    def first(self) -> RequestState | None:
        """The request whose turn it is."""
        return self._requests[0] if self._requests else None

    def pop(self) -> RequestState:
        """Take the request whose turn it is."""
        return self._requests.pop(0)

    def remove(self, request: RequestState) -> None:
        """Take a request out of the middle."""
        remove_ranked(self._requests, request)


def remove_ranked(requests: list[RequestState], request: RequestState) -> None:
    """Remove a request from a list sorted by rank. Ranks are unique. Mutates: requests."""
    index = bisect_left(requests, request.rank, key=_rank)
    if index == len(requests) or requests[index] is not request:
        raise RuntimeError(f"Request {request.request_id!r} is not where its rank says.")
    del requests[index]


def insert_ranked(requests: list[RequestState], request: RequestState) -> None:
    """Insert a request into a list sorted by rank. Mutates: requests."""
    insort(requests, request, key=_rank)


def _rank(request: RequestState) -> Rank:
    return request.rank
