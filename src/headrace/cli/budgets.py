"""`headrace budgets`: how much may be spent, by whom, in which time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.budget_owners import describe_unknown
from headrace.cli.keys import DatabaseOption, database_of
from headrace.cli.plain_values import PlainCommand, PlainGroup
from headrace.cli.settings import ConfigOption, load_config
from headrace.cli.tables import open_console
from headrace.core.budgets import BUDGET_PERIODS, Budget, BudgetPeriod, BudgetScope
from headrace.core.clock import SystemClock
from headrace.core.errors import ConfigError
from headrace.economics.ledger import UsageLedger
from headrace.economics.prices import format_usd, to_nano_usd
from headrace.launch.unpriced import describe_unpriced
from headrace.store.budgets import BudgetStore
from headrace.store.database import Database
from headrace.store.keys import KeyStore

# Of a limit, when only that is given.
WARN_PERCENT = 80


def set_(
    tenant: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the keys of a tenant spend.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="NAME", help="What a key spends: its name or prefix.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="What a model costs.")] = None,
    tag: Annotated[
        str | None, typer.Option(metavar="NAME", help="What calls with a tag cost.")
    ] = None,
    period: Annotated[
        str, typer.Option(metavar="WHAT", help="day, week, month or total, by UTC days.")
    ] = "month",
    stop: Annotated[
        str | None,
        typer.Option(
            metavar="USD", help="Refuse what could lead above it, and models without a price."
        ),
    ] = None,
    warn: Annotated[
        str | None,
        typer.Option(
            metavar="USD",
            help="Warn above it. Default: the same share of --stop as it was before, at first 80 "
            "percent.",
        ),
    ] = None,
    database: DatabaseOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Set a budget, in place of the one of the same owner and period.

    Without an owner it is for everybody together. Servers on the same database keep it within
    seconds. What was spent before in the period counts. A model or tenant that nothing here knows
    is warned of; it may come later. Under a --stop calls of models without a price are refused,
    since nothing could keep it (economics.price_files); where that is all of them, it is said.
    """
    owners: dict[BudgetScope, str | None] = {
        "tenant": tenant,
        "key": key,
        "model": model,
        "tag": tag,
    }
    given = [(scope, name) for scope, name in owners.items() if name is not None]
    if len(given) > 1:
        (first, _), (second, other), *_ = given
        hint = "A budget has one owner; set one for each."
        raise ConfigError(f"--{second}", other, f"nothing beside --{first}", hint)
    for scope, owner in given:
        if not (owner or "").strip():
            raise ConfigError(f"--{scope}", owner, "a name that is not empty")
    stop_nano_usd, warn_nano_usd = _read_usd("--stop", stop), _read_usd("--warn", warn)
    with _open(database, config_file, may_create=True) as opened:
        if opened is None:
            return
        scope, name = given[0] if given else ("all", "")
        if scope == "key":
            name = _find_key(opened, name or "")
        budget = Budget(
            scope=scope,
            name=name or "",
            period=_read_period(period),
            stop_nano_usd=stop_nano_usd,
            warn_nano_usd=warn_nano_usd,
        )
        store = BudgetStore(opened, SystemClock())
        before = next((known for known in store.list() if known.id == budget.id), None)
        if warn_nano_usd is None and stop_nano_usd is not None:
            budget = replace(budget, warn_nano_usd=_derive_warning(stop_nano_usd, before))
        store.set(budget)
        was = "" if before is None else f" (before: {_show_thresholds(before)})"
        typer.echo(f"budget {budget.id}: {_show_thresholds(budget)}{was}")
        # Not refused: a key or a model may come later.
        config = load_config(config_file, {"store.database_url": database})
        odd = [describe_unknown(scope, budget.name, opened, config)]
        if stop_nano_usd is not None and (scope != "model" or odd == [None]):
            odd.append(describe_unpriced(scope, budget.name, config))
        for text in odd:
            if text is not None:
                typer.echo(f"warning: {text}", err=True)


def list_(
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    database: DatabaseOption = None,
    config_file: ConfigOption = None,
) -> None:
    """List budgets, with what is spent of each in this period.

    What running requests hold is known to their server alone and is not in it.
    """
    today = datetime.now(UTC).date()
    spent: list[tuple[Budget, int]] = []
    with _open(database, config_file, may_create=False) as opened:
        if opened is not None:
            ledger = UsageLedger(opened)
            for budget in BudgetStore(opened, SystemClock()).list():
                spent.append((budget, ledger.spent_since(budget, budget.begins(today))))
    if is_json:
        rows = [
            {
                "id": budget.id,
                "scope": budget.scope,
                "name": budget.name,
                "period": budget.period,
                "stop_nano_usd": budget.stop_nano_usd,
                "warn_nano_usd": budget.warn_nano_usd,
                "spent_nano_usd": nano_usd,
                "ends": _show_end(budget, today),
            }
            for budget, nano_usd in spent
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    open_console().print(_make_table(spent, today))


def remove(
    budget_id: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="The budget's id, as the list shows it; of a key, its name does too."
        ),
    ],
    database: DatabaseOption = None,
    config_file: ConfigOption = None,
) -> None:
    """End a budget; servers know it within seconds."""
    with _open(database, config_file, may_create=False) as opened:
        if opened is None:
            raise ConfigError("budget", budget_id, "the id of a budget: there is none")
        budget_id = _with_key_id(opened, budget_id)
        BudgetStore(opened, SystemClock()).remove(budget_id)
    typer.echo(f"budget {budget_id} is removed")


@contextmanager
def _open(
    url: str | None, config_file: ConfigOption, may_create: bool
) -> Iterator[Database | None]:
    """The database; None where there is none and none may be made."""
    config = load_config(config_file, {"store.database_url": url})
    database = database_of(config)
    if may_create:
        database.create_file()
    try:
        yield database if database.exists() else None
    finally:
        database.close()


def _derive_warning(stop_nano_usd: int, before: Budget | None) -> int:
    """The warning of a budget for which none is given: in proportion as it was before."""
    if before is None or before.warn_nano_usd is None:
        return stop_nano_usd * WARN_PERCENT // 100
    if before.stop_nano_usd:
        return stop_nano_usd * before.warn_nano_usd // before.stop_nano_usd
    return min(before.warn_nano_usd, stop_nano_usd)


def _find_key(database: Database, name: str) -> str:
    """The id of a key. Raises: ConfigError."""
    keys = KeyStore(database, SystemClock()).list()
    for key in reversed(keys):
        if name in (key.name, key.id, key.prefix):
            return key.id
    names = ", ".join(key.name for key in keys) or "there is none"
    raise ConfigError("--key", name, f"the name or prefix of a key: {names}")


def _with_key_id(database: Database, budget_id: str) -> str:
    """`key:NAME:PERIOD` with the id of that key, as `budgets set` has it."""
    scope, _, rest = budget_id.partition(":")
    name, _, period = rest.rpartition(":")
    if scope != "key" or not name:
        return budget_id
    keys = KeyStore(database, SystemClock()).list()
    found = next((key.id for key in reversed(keys) if name in (key.name, key.prefix)), name)
    return f"key:{found}:{period}"


def _read_usd(flag: str, text: str | None) -> int | None:
    """Raises: ConfigError."""
    if text is None:
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or not 0 <= number <= 10**9:
        raise ConfigError(flag, text, "dollars from 0 to 1000000000, such as 12.50")
    return to_nano_usd(number)


def _read_period(text: str) -> BudgetPeriod:
    for period in BUDGET_PERIODS:
        if text == period:
            return period
    raise ConfigError("--period", text, f"one of {', '.join(BUDGET_PERIODS)}")


def _make_table(spent: Sequence[tuple[Budget, int]], today: date) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for title in ("ID", "SPENT USD", "WARN USD", "STOP USD", "LEFT USD", "UNTIL"):
        table.add_column(title, justify="right" if "USD" in title else "left", overflow="fold")
    for budget, nano_usd in spent:
        stop = budget.stop_nano_usd
        table.add_row(
            budget.id,
            format_usd(nano_usd),
            _show(budget.warn_nano_usd),
            _show(stop),
            _show(None if stop is None else max(0, stop - nano_usd)),
            _show_end(budget, today) or "-",
        )
    return table


def _show(nano_usd: int | None) -> str:
    return "-" if nano_usd is None else format_usd(nano_usd)


def _show_end(budget: Budget, today: date) -> str | None:
    end = budget.ends(today)
    return None if end is None else end.isoformat()


def _show_thresholds(budget: Budget) -> str:
    shown = []
    if budget.warn_nano_usd is not None:
        shown.append(f"a warning above {format_usd(budget.warn_nano_usd)} USD")
    if budget.stop_nano_usd is not None:
        shown.append(f"no more than {format_usd(budget.stop_nano_usd)} USD")
    else:
        shown.append("no stop")
    return ", ".join(shown)


def _group() -> None:
    """Budgets: how much may be spent, by whom, in which time."""


budgets = typer.Typer(cls=PlainGroup, rich_markup_mode=None, add_completion=False)
budgets.callback()(_group)
for _name, _command in (("set", set_), ("list", list_), ("remove", remove)):
    budgets.command(_name, cls=PlainCommand)(_command)
