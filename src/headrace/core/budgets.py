"""Budgets as records: whose money, how much of it, for how long.

In: what a person sets. Out: what the store keeps and admission goes by. Money is whole
nano-dollars.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Literal, get_args

from headrace.core.frozen import frozen

# all: of everybody together.
BudgetScope = Literal["all", "tenant", "key", "model", "tag"]
BudgetPeriod = Literal["day", "week", "month", "total"]
BUDGET_SCOPES: tuple[BudgetScope, ...] = get_args(BudgetScope)
BUDGET_PERIODS: tuple[BudgetPeriod, ...] = get_args(BudgetPeriod)


@frozen(kw_only=True)
class Budget:
    """What may be spent in a period, by UTC days. None: no such threshold.

    `name` is the tenant, key id, model or tag; empty for all. Calls are refused when they could
    lead above `stop_nano_usd`; above `warn_nano_usd` they are answered with a warning.
    """

    scope: BudgetScope
    name: str
    period: BudgetPeriod
    stop_nano_usd: int | None = None
    warn_nano_usd: int | None = None
    changed_at_s: float = 0.0

    @property
    def id(self) -> str:
        """Names the budget in commands and errors."""
        owner = f"{self.scope}:{self.name}" if self.name else self.scope
        return f"{owner}:{self.period}"

    def begins(self, day: date) -> date:
        """The first day of the period that a day is in; weeks begin on Monday."""
        if self.period == "week":
            return day - timedelta(days=day.weekday())
        if self.period == "month":
            return day.replace(day=1)
        return day if self.period == "day" else date.min

    def ends(self, day: date) -> date | None:
        """The first day of the next period; None: there is none."""
        begin = self.begins(day)
        if self.period == "total":
            return None
        if self.period == "month":
            return (begin + timedelta(days=32)).replace(day=1)
        return begin + timedelta(days=7 if self.period == "week" else 1)
