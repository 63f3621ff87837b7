"""What a move could save at most, before anything is measured.

In: a workload's volumes and tokens. Out: each task's share of the bill. Moving a task to a tier
that costs nothing saves its share and no more; under any linear price that share lies between its
share of the input and its share of the output tokens. Money needs no model to be counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from headrace.core.frozen import frozen


@frozen
class TaskTokens:
    """A day of a task. Units: tokens; `nano_usd` of the baseline, None where it is unpriced."""

    input: Fraction
    output: Fraction
    nano_usd: int | None


@frozen
class Bound:
    """Shares of the day's bill. `low` and `high` hold under any linear price.

    `at_price` is the share at the baseline's price.
    """

    task: str
    low: Fraction
    high: Fraction
    at_price: Fraction | None


def bounds(tasks: Mapping[str, TaskTokens]) -> list[Bound]:
    """Of each task alone."""
    total_input = sum((task.input for task in tasks.values()), Fraction(0))
    total_output = sum((task.output for task in tasks.values()), Fraction(0))
    costs = [task.nano_usd for task in tasks.values()]
    total = None if None in costs else sum(cost for cost in costs if cost is not None)
    found = []
    for name, task in tasks.items():
        shares = [
            part / whole
            for part, whole in ((task.input, total_input), (task.output, total_output))
            if whole
        ] or [Fraction(0)]
        at_price = Fraction(task.nano_usd, total) if total and task.nano_usd is not None else None
        found.append(Bound(name, min(shares), max(shares), at_price))
    return found
