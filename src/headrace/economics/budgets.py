"""Budgets: money held before it is spent, so that calls at once cannot spend the same.

In: the most that a call can cost, then its row. Out: a hold, or a refusal that names the budget and
when it begins anew. Every budget that applies gives its share or none does. What was spent comes
from the ledger, so it outlives the process; what is held does not, and needs not. Any thread.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from headrace.core.budgets import Budget
from headrace.core.errors import BudgetExceeded, CapacityError, StoreError
from headrace.core.frozen import frozen
from headrace.core.telemetry import BUDGET_REFUSALS, MetricSink, NoMetrics
from headrace.economics.prices import format_usd
from headrace.economics.usage_row import UsageRow

logger = logging.getLogger(__name__)

LEDGER_RETRY_S = 5.0

# Nano-dollars that the ledger has of a budget since a day.
SpentSince = Callable[[Budget, date], int]


@frozen
class Spender:
    """Whom and what a call is charged to, and the day it came."""

    tenant: str
    key_id: str | None
    model: str | None
    tags: tuple[str, ...]
    day: date

    def is_in(self, budget: Budget) -> bool:
        """Whether the budget pays for it."""
        if budget.scope == "tag":
            return budget.name in self.tags
        owners = {"all": "", "tenant": self.tenant, "key": self.key_id, "model": self.model}
        return owners[budget.scope] == budget.name


@dataclass(slots=True)
class _Window:
    """One period of a budget. Units: nano-dollars. `since`: spent while the ledger is read."""

    spent: int = 0
    held: int = 0
    since: int = 0
    has_warned: bool = False


@frozen
class BudgetHold:
    """Money held for a request. `warnings` are lines for the caller."""

    nano_usd: int
    windows: tuple[_Window, ...]
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Account:
    """A budget in force. Until it `is_known` what was spent of it, it refuses nothing."""

    budget: Budget
    is_known: bool = False
    windows: dict[date, _Window] = field(default_factory=dict)

    def window(self, day: date) -> _Window:
        begin = self.budget.begins(day)
        if begin not in self.windows:
            # Calls that came in the last period may still end in it.
            for old in sorted(self.windows)[:-1]:
                del self.windows[old]
            self.windows[begin] = _Window()
        return self.windows[begin]


def _always() -> bool:
    return True


class Budgets:
    """The budgets in force. `replace` them first; `refresh` now and then."""

    def __init__(
        self,
        spent_since: SpentSince,
        sink: MetricSink | None = None,
        can_record: Callable[[], bool] = _always,
    ) -> None:
        """`can_record`: whether the ledger takes rows; without it nothing under a budget runs."""
        self._spent_since, self._can_record = spent_since, can_record
        self._sink = sink or NoMetrics()
        self._lock = threading.Lock()
        self._accounts: dict[str, _Account] = {}
        # Rows that the ledger may not have yet, by their ids.
        self._unwritten: dict[str, UsageRow] = {}

    def replace(self, budgets: Sequence[Budget], today: date) -> None:
        """Put these budgets in force; what is held of those that stay is kept.

        Raises: StoreError, and the old ones stay.
        """
        with self._lock:
            old = self._accounts
            new = {budget.id: old.get(budget.id) or _Account(budget) for budget in budgets}
            # What ends from here on counts for the new ones too.
            self._accounts = old | new
        try:
            self.refresh(today)
        except StoreError:
            with self._lock:
                self._accounts = old
            raise
        with self._lock:
            for budget in budgets:
                new[budget.id].budget = budget
            self._accounts = new

    def refresh(self, today: date) -> None:
        """Take over what others have spent. Raises: StoreError, and all stays as it was.

        A row that the ledger gets meanwhile counts twice until the next time: rather too much is
        spent than too little.
        """
        with self._lock:
            accounts = tuple(self._accounts.values())
            on_their_way = [self._unwritten_of(account.budget, today) for account in accounts]
            for account in accounts:
                account.window(today).since = 0
        in_ledger = [
            self._spent_since(account.budget, account.budget.begins(today)) for account in accounts
        ]
        with self._lock:
            for account, waiting, written in zip(accounts, on_their_way, in_ledger, strict=True):
                window = account.window(today)
                window.spent = written + waiting + window.since
                account.is_known = True

    @property
    def is_empty(self) -> bool:
        """Whether there is no budget at all."""
        return not self._accounts

    def limits(self, spender: Spender) -> bool:
        """Whether a budget could refuse the call."""
        with self._lock:
            return any(_can_stop(account) for account in self._of(spender))

    def reserve(self, spender: Spender, nano_usd: int | None) -> BudgetHold | None:
        """Hold what a request may cost at most; None of an amount is a model without a price.

        Raises: BudgetExceeded, and nothing is held; CapacityError while costs cannot be recorded.
        """
        with self._lock:
            accounts = tuple(self._of(spender))
            if not accounts:
                return None
            stops = [account for account in accounts if _can_stop(account)]
            if nano_usd is None and stops:
                self._refuse(_unpriced(stops[0].budget, spender), stops[0].budget)
            if stops and not self._can_record():
                raise CapacityError(
                    "The usage ledger cannot be written, and this call is under a budget. Send the "
                    "request again later.",
                    LEDGER_RETRY_S,
                    is_full=False,
                )
            wanted = nano_usd or 0
            for account in stops:
                window, stop = account.window(spender.day), account.budget.stop_nano_usd or 0
                if window.spent + window.held + wanted > stop:
                    text = _exceeded(account.budget, window, wanted, spender.day)
                    self._refuse(text, account.budget)
            windows = tuple(account.window(spender.day) for account in accounts)
            for window in windows:
                window.held += wanted
            warnings = tuple(self._warnings(accounts, spender.day))
        return BudgetHold(wanted, windows, warnings)

    def release(self, hold: BudgetHold) -> None:
        """Give a hold back: its request did not run."""
        with self._lock:
            for window in hold.windows:
                window.held -= hold.nano_usd

    def settle(self, holds: Sequence[BudgetHold], row: UsageRow) -> None:
        """Spend what a call cost, in place of what was held for it.

        Do it before the ledger has the row.
        """
        with self._lock:
            for hold in holds:
                for window in hold.windows:
                    window.held -= hold.nano_usd
            if row.cost_nano_usd:
                self._unwritten[row.row_id] = row
                spender = _spender_of(row)
                for account in self._of(spender):
                    window = account.window(spender.day)
                    window.spent += row.cost_nano_usd
                    window.since += row.cost_nano_usd

    def note_written(self, rows: Sequence[UsageRow]) -> None:
        """The ledger has these rows."""
        with self._lock:
            for row in rows:
                self._unwritten.pop(row.row_id, None)

    def spent(self, budget_id: str, today: date) -> int:
        """What is spent of a budget, without what is held."""
        with self._lock:
            return self._accounts[budget_id].window(today).spent

    def held(self, budget_id: str, today: date) -> int:
        """What running requests hold of a budget."""
        with self._lock:
            return self._accounts[budget_id].window(today).held

    def _of(self, spender: Spender) -> Iterator[_Account]:
        return (account for account in self._accounts.values() if spender.is_in(account.budget))

    def _unwritten_of(self, budget: Budget, today: date) -> int:
        """Nano-dollars of this period in rows on their way to the ledger."""
        begin, total = budget.begins(today), 0
        for row in self._unwritten.values():
            spender = _spender_of(row)
            if spender.is_in(budget) and spender.day >= begin:
                total += row.cost_nano_usd or 0
        return total

    def _warnings(self, accounts: Sequence[_Account], day: date) -> Iterator[str]:
        for account in accounts:
            budget, window = account.budget, account.window(day)
            warn = budget.warn_nano_usd
            if warn is None or window.spent + window.held < warn:
                continue
            used = format_usd(window.spent + window.held)
            text = f"{budget.id} has used or holds {used} USD; the warning is at {format_usd(warn)}"
            if budget.stop_nano_usd is not None:
                text += f", the limit {format_usd(budget.stop_nano_usd)}"
            if not window.has_warned:
                window.has_warned = True
                logger.warning("The budget %s USD.", text)
            yield text

    def _refuse(self, text: str, budget: Budget) -> None:
        self._sink.add(BUDGET_REFUSALS, scope=budget.scope)
        raise BudgetExceeded(text, budget.id)


def _can_stop(account: _Account) -> bool:
    return account.is_known and account.budget.stop_nano_usd is not None


def _exceeded(budget: Budget, window: _Window, wanted: int, day: date) -> str:
    stop = budget.stop_nano_usd or 0
    left = max(0, stop - window.spent - window.held)
    end = budget.ends(day)
    reset = "it has no next period" if end is None else f"it begins anew on {end} UTC"
    return (
        f"The budget {budget.id} of {format_usd(stop)} USD has {format_usd(left)} USD left, and "
        f"this request may cost {format_usd(wanted)} USD; {reset}. "
        "Lower max_tokens or n, or raise the budget."
    )


def _unpriced(budget: Budget, spender: Spender) -> str:
    return (
        f"The model {spender.model!r} has no price, so the budget {budget.id} cannot be kept. Add "
        "its price to a file of economics.price_files."
    )


def _spender_of(row: UsageRow) -> Spender:
    day = datetime.fromtimestamp(row.accepted_at_ms / 1000, UTC).date()
    tags = tuple(json.loads(row.tags)) if row.tags else ()
    return Spender(row.tenant, row.key_id, row.model, tags, day)
