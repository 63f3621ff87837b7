"""`headrace costs`: what calls cost, added up, or as a file for tools that read cloud bills."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from headrace.cli.keys import PIPE_COLUMNS, DatabaseOption, database_url
from headrace.cli.settings import ConfigOption, load_config
from headrace.cli.usage import note_no_rows, read_period
from headrace.core.errors import ConfigError, HeadraceError
from headrace.core.stores import key_prefix
from headrace.economics.cost_report import (
    COST_DIMENSIONS,
    CostDimension,
    CostTotal,
    add_up,
    lines,
)
from headrace.economics.focus import FOCUS_COLUMNS, OWN_COLUMNS, focus_rows
from headrace.economics.ledger import UsageLedger
from headrace.economics.prices import format_usd
from headrace.store.database import Database

FORMATS = ("table", "json", "csv", "focus")
_HEADS = {
    "requests": "REQUESTS",
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
            help="tenant, key, model, tag, tier, task or day; may be repeated. Default: tenant.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DAY", help="First day, UTC: 2026-11-01, or 7d for the last seven days."
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="DAY", help="Last day, which is included.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="FORM", help="table, json, csv or focus.")
    ] = "table",
    account: Annotated[
        str,
        typer.Option(metavar="NAME", help="With --format focus: the account that is billed."),
    ] = "headrace",
    database: DatabaseOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Add up what the calls of the usage ledger cost, also those that were cut off.

    COST is in full; MARGINAL leaves out the idle time of own machines. UNPRICED calls are in no
    sum. A call with several tags counts for each. `focus` is CSV of FOCUS 1.4, a line per kind of
    token, model, price, tenant, key and day.
    """
    if form not in FORMATS:
        raise ConfigError("--format", form, f"one of {', '.join(FORMATS)}")
    groups = _read_dimensions(by or ["tenant"])
    since_ms, until_ms = read_period(since, until)
    config = load_config(config_file, {"store.database_url": database})
    opened = Database(database_url(config))
    if not opened.exists():
        raise HeadraceError(
            f"There are no costs yet: {opened.shown} does not exist. A server writes them once "
            "there is an API key (`headrace keys create NAME`), or with --ledger on."
        )
    try:
        UsageLedger(opened)
        if form == "focus":
            rows = list(focus_rows(lines(opened, since_ms, until_ms), account))
        totals = add_up(opened, groups, since_ms, until_ms)
    finally:
        opened.close()
    if form == "focus":
        _write_focus(rows)
    else:
        _WRITERS[form](groups, totals)
    note_no_rows(len(totals))
    _warn(totals, "tag" in groups)


def _warn(totals: Sequence[CostTotal], is_by_tag: bool) -> None:
    num_unpriced = sum(total.unpriced for total in totals)
    if num_unpriced:
        calls = "calls (once for each tag)" if is_by_tag else "calls"
        typer.echo(
            f"{num_unpriced} {calls} have no price and are in no sum; `headrace prices` shows what "
            "has one, economics.price_files adds more.",
            err=True,
        )


def _read_dimensions(names: Sequence[str]) -> list[CostDimension]:
    """Raises: ConfigError."""
    known: dict[str, CostDimension] = {name: name for name in COST_DIMENSIONS}
    for name in names:
        if name not in known:
            raise ConfigError("--by", name, f"one of {', '.join(COST_DIMENSIONS)}")
    return list(dict.fromkeys(known[name] for name in names))


def _as_row(groups: Sequence[CostDimension], total: CostTotal) -> dict[str, Any]:
    values = asdict(total)
    row = dict(zip(groups, values.pop("group"), strict=True)) | values
    if row.get("key") is not None:
        row["key"] = key_prefix(row["key"])
    return row


def _write_json(groups: Sequence[CostDimension], totals: Sequence[CostTotal]) -> None:
    rows = [
        _as_row(groups, total) | {"cost_usd": format_usd(total.cost_nano_usd)} for total in totals
    ]
    typer.echo(json.dumps(rows, indent=2))


def _write_csv(groups: Sequence[CostDimension], totals: Sequence[CostTotal]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*groups, *_HEADS])
    for total in totals:
        row = _as_row(groups, total)
        writer.writerow([row[name] for name in (*groups, *_HEADS)])


def _write_focus(rows: Sequence[dict[str, str]]) -> None:
    writer = csv.DictWriter(sys.stdout, [*FOCUS_COLUMNS, *OWN_COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _write_table(groups: Sequence[CostDimension], totals: Sequence[CostTotal]) -> None:
    rows = [_as_row(groups, total) for total in totals]
    names = [name for name in _HEADS if name in _ALWAYS or any(row[name] for row in rows)]
    if all(row["marginal_nano_usd"] == row["cost_nano_usd"] for row in rows):
        names = [name for name in names if name != "marginal_nano_usd"]
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for group in groups:
        table.add_column(group.upper(), overflow="fold")
    for name in names:
        table.add_column(_HEADS[name], justify="right", no_wrap=True)
    for row in rows:
        shown = [row[group] if row[group] is not None else "-" for group in groups]
        table.add_row(*shown, *(_show(name, row[name]) for name in names))
    # A pipe has no width; lines that a program reads are not broken.
    console = Console() if sys.stdout.isatty() else Console(width=PIPE_COLUMNS)
    console.print(table)


def _show(name: str, value: int) -> str:
    return format_usd(value) if name.endswith("_nano_usd") else str(value)


_WRITERS = {"table": _write_table, "json": _write_json, "csv": _write_csv}
