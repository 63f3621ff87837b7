"""Optimizer: the cheapest choice of options that covers every task, exactly.

In: options that may be chosen. Out: an assignment of the least cost, or of the least cost with at
most so many moves. Branch and bound: tasks in order, for each the options that cover it, cut where
even the cheapest rest is no better. Knows no floors: options that break one are not handed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from headrace.core.frozen import frozen
from headrace.planner.options import Option


@frozen
class Assignment:
    """Options that cover every task once. Units: nano-dollars a day."""

    options: tuple[Option, ...]

    @property
    def nano_usd(self) -> int:
        return sum(option.nano_usd or 0 for option in self.options)

    @property
    def num_moves(self) -> int:
        return sum(len(option.moves) for option in self.options)


def cheapest(
    options: Sequence[Option], tasks: Sequence[str], max_moves: int | None = None
) -> Assignment | None:
    """The cheapest assignment; of equal ones that with fewer moves. None: no set covers all."""
    priced = [option for option in options if option.nano_usd is not None]
    search = _Search(_undominated(priced), tuple(tasks), max_moves)
    search.descend(frozenset(tasks), (), 0, 0)
    return None if search.best is None else Assignment(search.best)


def fewest_moves(
    options: Sequence[Option], tasks: Sequence[str], most_nano_usd: int
) -> Assignment | None:
    """The assignment with the fewest moves that costs at most so much; of those the cheapest."""
    free = cheapest(options, tasks)
    if free is None or free.nano_usd > most_nano_usd:
        return None
    for limit in range(free.num_moves):
        found = cheapest(options, tasks, limit)
        if found is not None and found.nano_usd <= most_nano_usd:
            return found
    return free


def _undominated(options: Sequence[Option]) -> list[Option]:
    """Without those that another of the same tasks beats in cost and moves."""
    kept: list[Option] = []
    for option in sorted(options, key=_rank):
        if not any(
            set(other.tasks) == set(option.tasks) and len(other.moves) <= len(option.moves)
            for other in kept
        ):
            kept.append(option)
    return kept


def _rank(option: Option) -> tuple[int, int]:
    return option.nano_usd or 0, len(option.moves)


class _Search:
    """The best assignment so far, and what is left to look at."""

    def __init__(
        self, options: Sequence[Option], tasks: tuple[str, ...], max_moves: int | None
    ) -> None:
        self._tasks, self._max_moves = tasks, max_moves
        self._covering: Mapping[str, list[Option]] = {
            task: [option for option in options if task in option.tasks] for task in tasks
        }
        # A task's share of the cheapest option that covers it: what it adds at least.
        self._least = {
            task: min(
                (Fraction(option.nano_usd or 0, len(option.tasks)) for option in covering),
                default=None,
            )
            for task, covering in self._covering.items()
        }
        self.best: tuple[Option, ...] | None = None
        self._best_rank: tuple[int, int] | None = None

    def descend(
        self, left: frozenset[str], chosen: tuple[Option, ...], nano_usd: int, num_moves: int
    ) -> None:
        """Choose for the first task that is left."""
        if self._max_moves is not None and num_moves > self._max_moves:
            return
        rank = (nano_usd, num_moves)
        if not left:
            if self._best_rank is None or rank < self._best_rank:
                self.best, self._best_rank = chosen, rank
            return
        rest = [self._least[task] for task in left]
        if any(least is None for least in rest):
            return
        bound = nano_usd + sum((least for least in rest if least is not None), Fraction(0))
        if self._best_rank is not None and bound > self._best_rank[0]:
            return
        task = next(name for name in self._tasks if name in left)
        for option in self._covering[task]:
            if left.issuperset(option.tasks):
                self.descend(
                    left.difference(option.tasks),
                    (*chosen, option),
                    nano_usd + (option.nano_usd or 0),
                    num_moves + len(option.moves),
                )
