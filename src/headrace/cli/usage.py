"""`headrace usage`: what was used, added up by tenant, key, model, tier, task or day."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from headrace.cli.keys import PIPE_COLUMNS, DatabaseOption, database_url
from headrace.cli.settings import ConfigOption, load_config
from headrace.core.errors import ConfigError, HeadraceError
from headrace.core.stores import key_prefix
from headrace.economics.ledger import DIMENSIONS, Dimension, UsageLedger, UsageTotal
from headrace.store.database import Database

FORMATS = ("table", "json", "csv")
# In a table seconds are rounded; what is 0 in every row is left out.
_HEADS = {
    "requests": "REQUESTS",
    "errors": "ERRORS",
    "input_tokens": "INPUT",
    "cached_input_tokens": "CACHED",
    "output_tokens": "OUTPUT",
    "reasoning_tokens": "REASONING",
    "rejected_draft_tokens": "REJECTED DRAFT",
    "estimated_input_tokens": "INPUT (ESTIMATED)",
    "queue_s": "QUEUE s",
    "prefill_s": "PREFILL s",
    "decode_s": "DECODE s",
}
_ALWAYS = ("requests", "input_tokens", "cached_input_tokens", "output_tokens")


def usage(
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT",
            help="tenant, key, model, tier, task or day; may be repeated. Default: tenant.",
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
        str, typer.Option("--format", metavar="FORM", help="table, json or csv.")
    ] = "table",
    database: DatabaseOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Add up the usage ledger: tokens and seconds of every call, also of those cut off.

    Cached tokens are part of the input, reasoning is part of the output. INPUT (ESTIMATED) stands
    for prompts of calls that ended before their tokens were reported; it is in no other column.
    """
    if form not in FORMATS:
        raise ConfigError("--format", form, f"one of {', '.join(FORMATS)}")
    groups = _read_dimensions(by or ["tenant"])
    since_ms, until_ms = read_period(since, until)
    config = load_config(config_file, {"store.database_url": database})
    opened = Database(database_url(config))
    if not opened.exists():
        raise HeadraceError(
            f"There is no usage yet: {opened.shown} does not exist. A server writes it once there "
            "is an API key (`headrace keys create NAME`), or with --ledger on."
        )
    try:
        totals = UsageLedger(opened).report(groups, since_ms, until_ms)
    finally:
        opened.close()
    _WRITERS[form](groups, totals)
    note_no_rows(len(totals))


def note_no_rows(num_rows: int) -> None:
    """Say on stderr why a report is empty; what reads stdout sees its form as always."""
    if not num_rows:
        typer.echo(
            "There are no calls in this period. A server keeps a row of each once there is an API "
            "key (`headrace keys create NAME`), or with --ledger on.",
            err=True,
        )


def read_period(since: str | None, until: str | None) -> tuple[int | None, int | None]:
    """First and last day as milliseconds of Unix, from and until before. Raises: ConfigError."""
    today = datetime.now(UTC).date()
    since_ms = None if since is None else _to_ms(_read_day("--since", since, today))
    until_ms = None
    if until is not None:
        until_ms = _to_ms(_read_day("--until", until, today) + timedelta(days=1))
    return since_ms, until_ms


def _read_dimensions(names: Sequence[str]) -> list[Dimension]:
    """Raises: ConfigError."""
    known: dict[str, Dimension] = {name: name for name in DIMENSIONS}
    for name in names:
        if name not in known:
            raise ConfigError("--by", name, f"one of {', '.join(DIMENSIONS)}")
    return list(dict.fromkeys(known[name] for name in names))


def _read_day(flag: str, text: str, today: date) -> date:
    """Raises: ConfigError."""
    if match := re.fullmatch(r"(\d{1,4})d", text):
        return today - timedelta(days=max(int(match[1]) - 1, 0))
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(flag, text, "a day such as 2026-11-01, or 7d") from None


def _to_ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


def _as_row(groups: Sequence[Dimension], total: UsageTotal) -> dict[str, Any]:
    values = asdict(total)
    row = dict(zip(groups, values.pop("group"), strict=True)) | values
    if row.get("key") is not None:
        row["key"] = key_prefix(row["key"])
    return row


def _write_json(groups: Sequence[Dimension], totals: Sequence[UsageTotal]) -> None:
    typer.echo(json.dumps([_as_row(groups, total) for total in totals], indent=2))


def _write_csv(groups: Sequence[Dimension], totals: Sequence[UsageTotal]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*groups, *_HEADS])
    for total in totals:
        writer.writerow(_as_row(groups, total).values())


def _write_table(groups: Sequence[Dimension], totals: Sequence[UsageTotal]) -> None:
    rows = [_as_row(groups, total) for total in totals]
    names = [name for name in _HEADS if name in _ALWAYS or any(row[name] for row in rows)]
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for group in groups:
        table.add_column(group.upper(), overflow="fold")
    for name in names:
        table.add_column(_HEADS[name], justify="right", no_wrap=True)
    for row in rows:
        shown = [row[group] if row[group] is not None else "-" for group in groups]
        table.add_row(*shown, *(_show(row[name]) for name in names))
    # A pipe has no width; lines that a program reads are not broken.
    console = Console() if sys.stdout.isatty() else Console(width=PIPE_COLUMNS)
    console.print(table)


def _show(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.1f}"


_WRITERS = {"table": _write_table, "json": _write_json, "csv": _write_csv}
