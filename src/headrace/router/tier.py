"""Tier: backends that stand for each other, and the order in which they are asked.

In: backends with their models. Out: members in order, those that can answer now first. What is
known of their health is `health`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from headrace.core.backend import Backend, ModelInfo, health_of
from headrace.core.errors import ModelNotFound
from headrace.core.frozen import frozen
from headrace.core.routing_config import TierConfig
from headrace.router.health import HealthBook

MAX_AHEAD = 4
"""Requests that the backend of a key may have more than the least busy one."""


@frozen
class Member:
    """A model that answers for a tier. `name` is that of headers and the ledger."""

    name: str
    backend: Backend
    model: str

    @property
    def info(self) -> ModelInfo:
        """What its backend says of the model."""
        return next(info for info in self.backend.models() if info.name == self.model)

    @property
    def can_answer(self) -> bool:
        """Whether its backend says that the model would answer now, or soon."""
        try:
            health = health_of(self.backend, self.model)
        except ModelNotFound:  # an adapter that was unloaded
            return False
        # One that is not in memory is loaded by the request.
        return health is None or health.status in ("ready", "starting")


@frozen
class Tier:
    """See TierConfig."""

    config: TierConfig
    members: tuple[Member, ...]

    @property
    def name(self) -> str:
        return self.config.name

    def in_order(self, health: HealthBook, cache_key: str = "") -> Sequence[Member]:
        """All members: those that can answer first, then in the order that is wanted.

        Where requests are spread, those of one `cache_key` go to the member that has answered the
        others, and has their beginning in its cache, unless it is much busier than the rest.
        """
        target_s, is_spread = self.config.ttft_target_s, self.config.order == "least-busy"

        def rank(member: Member) -> tuple[bool, bool, int]:
            known = health.of(member.name)
            is_slow = target_s is not None and known.is_slower_than(target_s)
            is_away = health.is_resting(member.name) or not member.can_answer
            return is_away, is_slow, known.num_running if is_spread else 0

        # Sorting keeps the order of equals.
        ordered = sorted(self.members, key=rank)
        if not cache_key or not is_spread:
            return ordered
        best_away, best_slow, fewest = rank(ordered[0])
        able = [member for member in ordered if rank(member)[:2] == (best_away, best_slow)]
        preferred = max(able, key=lambda member: _affinity(cache_key, member.name))
        if rank(preferred)[2] > fewest + MAX_AHEAD:
            return ordered
        return [preferred, *(member for member in ordered if member is not preferred)]


def _affinity(cache_key: str, name: str) -> bytes:
    """Whose is largest has the key; who comes or goes moves no key of the others.

    Source: Thaler and Ravishankar, rendezvous hashing, IEEE/ACM ToN 6(1), 1998.
    """
    return sha256(f"{cache_key}\0{name}".encode("utf-8", "replace")).digest()
