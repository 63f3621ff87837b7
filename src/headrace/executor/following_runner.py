"""FollowingRunner: a ModelRunner of a rank other than 0. It computes its part of every step.

In: what rank 0 was told to run. Out: its share of sums and logits, through the ops. Rank 0 alone
says which tokens are chosen; the others learn of them with the next step's input, also where every
device chooses for itself, of the same logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace.core.step import NewRequest
from headrace.executor.model_runner import Gathered, LogitRow, ModelRunner
from headrace.ops.protocol import Array
from headrace.sampling.logits_rule import LogitsRule


class FollowingRunner(ModelRunner):
    """Runs the same forward passes and the same heads in the same order as rank 0."""

    def _open_rule(self, new: NewRequest) -> LogitsRule | None:
        return None

    def _choose(
        self, logits: Array, wanted: Sequence[LogitRow], found: Mapping[str, Gathered]
    ) -> None:
        """Nothing: rank 0 has these logits too."""
