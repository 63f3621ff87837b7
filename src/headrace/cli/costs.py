"""`headrace costs`: what calls cost, added up, or as a file for tools that read cloud bills."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from headrace.cli.days import SinceOption, UntilOption, read_period
from headrace.cli.keys import DatabaseOption
from headrace.cli.ledger_report import (
    Row,
    make_rows,
    note_no_rows,
    open_ledger,
    read_groups,
    write_csv,
    write_table,
)
from headrace.cli.settings import ConfigOption
from headrace.core.errors import ConfigError
from headrace.economics.cost_report import COST_DIMENSIONS, CostTotal, add_up, lines
from headrace.economics.focus import FOCUS_COLUMNS, OWN_COLUMNS, focus_rows
from headrace.economics.ledger import UsageLedger
from headrace.economics.prices import format_usd

FORMATS = ("table", "json", "csv", "focus")
_HEADS = {
    "requests": "REQUESTS",
    "errors": "ERRORS",
    "parts": "PARTS",
    "unpriced": "UNPRICED",
    "stale": "STALE PRICE",
    "estimated": "ESTIMATED",
    "input_tokens": "INPUT",
    "output_tokens": "OUTPUT",
    "cost_nano_usd": "COST USD",
    "marginal_nano_usd": "MARGINAL USD",
}
_ALWAYS = ("requests", "input_tokens", "output_tokens", "cost_nano_usd")


def costs(
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT",
            help="tenant, key, user (a digest), model, tag, tier, task or day; may be repeated. "
            "Default: tenant.",
        ),
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    form: Annotated[
        str, typer.Option("--format", metavar="FORM", help="table, json, csv or focus.")
    ] = "table",
    account: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --format focus: the account that is billed. Default: headrace.",
            show_default=False,
        ),
    ] = None,
    database: DatabaseOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Add up what the calls of the usage ledger cost, also those that were cut off.

    COST is in full; MARGINAL leaves out the idle time of own machines. UNPRICED calls are in no
    sum, and where all are, the cost is empty (in JSON null), not 0. PARTS are what other backends
    did for a call, or beside it as shadows; they are in every column but REQUESTS. ERRORS are calls
    that were refused, failed or left. A call with
    several tags counts for each. `focus` is CSV of FOCUS 1.4, a line per kind of token, model,
    price, tier, task, tenant, key, tags and day.
    """
    if form not in FORMATS:
        raise ConfigError("--format", form, f"one of {', '.join(FORMATS)}")
    if form == "focus" and by is not None:
        raise ConfigError(
            "--by", ", ".join(by), "nothing with --format focus, which has every line"
        )
    if form != "focus" and account is not None:
        raise ConfigError("--account", account, "nothing without --format focus")
    groups = read_groups(by or ["tenant"], COST_DIMENSIONS)
    since_ms, until_ms = read_period(since, until)
    with open_ledger(database, config_file, "There are no costs") as opened:
        UsageLedger(opened)
        if form == "focus":
            bill = list(focus_rows(lines(opened, since_ms, until_ms), account or "headrace"))
        totals = add_up(opened, groups, since_ms, until_ms)
    rows = make_rows(groups, totals)
    if form == "focus":
        _write_focus(bill)
    elif form == "json":
        priced = [row | {"cost_usd": _show_usd(row["cost_nano_usd"]) or None} for row in rows]
        typer.echo(json.dumps(priced, indent=2))
    elif form == "csv":
        write_csv(groups, _HEADS, rows)
    else:
        write_table(groups, _shown_heads(rows), rows, _show)
    note_no_rows(len(totals))
    _warn(totals, "tag" in groups)


def _warn(totals: Sequence[CostTotal], is_by_tag: bool) -> None:
    num_unpriced = sum(total.unpriced for total in totals)
    if num_unpriced:
        calls = "calls or parts of calls" if any(total.parts for total in totals) else "calls"
        calls += " (once for each tag)" if is_by_tag else ""
        typer.echo(
            f"{num_unpriced} {calls} have no price and are in no sum; `headrace prices` shows what "
            "has one, economics.price_files adds more.",
            err=True,
        )


def _write_focus(rows: Sequence[dict[str, str]]) -> None:
    writer = csv.DictWriter(sys.stdout, [*FOCUS_COLUMNS, *OWN_COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _shown_heads(rows: Sequence[Row]) -> dict[str, str]:
    """What is 0 in every row is left out, and what is the same as the cost."""
    names = [name for name in _HEADS if name in _ALWAYS or any(row[name] for row in rows)]
    if all(row["marginal_nano_usd"] == row["cost_nano_usd"] for row in rows):
        names = [name for name in names if name != "marginal_nano_usd"]
    return {name: _HEADS[name] for name in names}


def _show(name: str, value: int | None) -> str:
    return _show_usd(value) if name.endswith("_nano_usd") else str(value)


def _show_usd(nano_usd: int | None) -> str:
    return "" if nano_usd is None else format_usd(nano_usd)
