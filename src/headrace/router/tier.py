"""Tier: backends that stand for each other, and the order in which they are asked.

In: backends with their models. Out: members in order, those that can answer now first. What is
known of their health is `health`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.core.backend import Backend, ModelInfo
from headrace.core.routing_config import TierConfig
from headrace.router.health import HealthBook


@dataclass(frozen=True, slots=True)
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
        """Whether its backend says that it would answer now, or soon."""
        return self.backend.health().status in ("ready", "starting")


@dataclass(frozen=True, slots=True)
class Tier:
    """See TierConfig."""

    config: TierConfig
    members: tuple[Member, ...]

    @property
    def name(self) -> str:
        return self.config.name

    def in_order(self, health: HealthBook) -> Sequence[Member]:
        """All members: those that can answer first, then in the order that is wanted."""
        target_s, is_spread = self.config.ttft_target_s, self.config.order == "least-busy"

        def rank(member: Member) -> tuple[bool, bool, int]:
            known = health.of(member.name)
            is_slow = target_s is not None and known.is_slower_than(target_s)
            is_away = health.is_resting(member.name) or not member.can_answer
            return is_away, is_slow, known.num_running if is_spread else 0

        # Sorting keeps the order of equals.
        return sorted(self.members, key=rank)
