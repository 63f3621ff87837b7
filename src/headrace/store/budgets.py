"""BudgetStore: budgets in the database. What was spent is in the usage ledger, not here."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from sqlalchemy import BigInteger, Column, MetaData, String, Table, delete, func, select

from headrace.core.budgets import BUDGET_PERIODS, BUDGET_SCOPES, Budget
from headrace.core.clock import Clock
from headrace.core.errors import ConfigError
from headrace.store.database import Database

MAX_BUDGET_NANO_USD = 10**18

_budgets = Table(
    "budgets",
    MetaData(),
    Column("id", String, primary_key=True),
    Column("scope", String(16), nullable=False),
    Column("name", String, nullable=False),
    Column("period", String(16), nullable=False),
    Column("stop_nano_usd", BigInteger),
    Column("warn_nano_usd", BigInteger),
    Column("changed_at_ms", BigInteger, nullable=False),
)
_STEPS = (_budgets.create,)


class BudgetStore:
    """Sets, lists and removes budgets."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Raises: StoreError when the table cannot be made or is of a newer program."""
        self._database, self._clock = database, clock
        database.prepare("budgets", _STEPS)

    def set(self, budget: Budget) -> None:
        """Set a budget, in place of the one of the same owner and period.

        Raises: ConfigError, StoreError.
        """
        _check(budget)
        row = {
            "id": budget.id,
            "scope": budget.scope,
            "name": budget.name,
            "period": budget.period,
            "stop_nano_usd": budget.stop_nano_usd,
            "warn_nano_usd": budget.warn_nano_usd,
            "changed_at_ms": int(self._clock.unix_s() * 1000),
        }
        with self._database.writing() as connection:
            connection.execute(delete(_budgets).where(_budgets.c.id == budget.id))
            connection.execute(_budgets.insert().values(row))

    def list(self) -> Sequence[Budget]:
        """Every budget, in order of their ids. Raises: StoreError."""
        with self._database.reading() as connection:
            rows = connection.execute(select(_budgets).order_by(_budgets.c.id)).all()
        return [
            Budget(
                scope=row.scope,
                name=row.name,
                period=row.period,
                stop_nano_usd=row.stop_nano_usd,
                warn_nano_usd=row.warn_nano_usd,
                changed_at_s=row.changed_at_ms / 1000,
            )
            for row in rows
        ]

    def remove(self, budget_id: str) -> None:
        """End a budget. Raises: ConfigError when there is none of that id; StoreError."""
        with self._database.writing() as connection:
            found = connection.execute(delete(_budgets).where(_budgets.c.id == budget_id))
        if not found.rowcount:
            ids = ", ".join(budget.id for budget in self.list()) or "there is none"
            raise ConfigError("budget", budget_id, f"the id of a budget: {ids}")

    def stamp(self) -> tuple[int, int, int]:
        """Numbers that change whenever a budget does. Raises: StoreError."""
        columns = _budgets.c
        with self._database.reading() as connection:
            count, newest, total = connection.execute(
                select(
                    func.count(columns.id),
                    func.max(columns.changed_at_ms),
                    func.sum(columns.changed_at_ms % 1_000_003),
                )
            ).one()
        return count, newest or 0, int(total or 0)


def _check(budget: Budget) -> None:
    if budget.scope not in BUDGET_SCOPES:
        raise ConfigError("scope", budget.scope, f"one of {', '.join(BUDGET_SCOPES)}")
    if budget.period not in BUDGET_PERIODS:
        raise ConfigError("--period", budget.period, f"one of {', '.join(BUDGET_PERIODS)}")
    stop, warn = budget.stop_nano_usd, budget.warn_nano_usd
    if stop is None and warn is None:
        raise ConfigError("--stop", None, "dollars, here or in --warn: one of them is needed")
    for flag, value in (("--stop", stop), ("--warn", warn)):
        if value is not None and not 0 <= value <= MAX_BUDGET_NANO_USD:
            raise ConfigError(flag, value, "dollars from 0 to 1000000000")
    if stop is not None and warn is not None and warn > stop:
        limit = Decimal(stop) / 10**9
        raise ConfigError(
            "--warn", float(Decimal(warn) / 10**9), f"dollars, at most --stop, {limit}"
        )
