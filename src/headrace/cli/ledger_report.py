"""What `usage` and `costs` share: the ledger, groups, and totals as CSV or a table.

In: totals of the usage ledger in groups. Out: stdout. What a column means is the command's concern.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TypeVar

import typer
from rich.table import Table

from headrace.cli.keys import database_of
from headrace.cli.settings import ConfigOption, load_config
from headrace.cli.tables import open_console
from headrace.core.errors import ConfigError, HeadraceError
from headrace.core.stores import key_prefix
from headrace.economics.cost_report import CostTotal
from headrace.economics.ledger import UsageTotal
from headrace.store.database import Database

Group = TypeVar("Group", bound=str)
Row = Mapping[str, Any]


@contextmanager
def open_ledger(url: str | None, config_file: ConfigOption, missing: str) -> Iterator[Database]:
    """The database of the ledger; `missing` begins what is said where there is none.

    Raises: HeadraceError, ConfigError.
    """
    opened = database_of(load_config(config_file, {"store.database_url": url}))
    if not opened.exists():
        raise HeadraceError(
            f"{missing} yet: {opened.shown} does not exist. A server keeps a row of each call once "
            "there is an API key (`headrace keys create NAME`), or with --ledger on."
        )
    try:
        yield opened
    finally:
        opened.close()


def read_groups(names: Sequence[str], known: Sequence[Group]) -> list[Group]:
    """What to add up by, each once. Raises: ConfigError."""
    by_name = {str(group): group for group in known}
    for name in names:
        if name not in by_name:
            raise ConfigError("--by", name, f"one of {', '.join(by_name)}")
    return list(dict.fromkeys(by_name[name] for name in names))


def make_rows(
    groups: Sequence[str], totals: Sequence[UsageTotal] | Sequence[CostTotal]
) -> list[dict[str, Any]]:
    """Totals as rows of names and values; of a key as much as lists show."""
    rows = []
    for total in totals:
        values = asdict(total)
        row = dict(zip(groups, values.pop("group"), strict=True)) | values
        if row.get("key") is not None:
            row["key"] = key_prefix(row["key"])
        rows.append(row)
    return rows


def write_csv(groups: Sequence[str], heads: Mapping[str, str], rows: Sequence[Row]) -> None:
    """Every column, by the names of fields."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*groups, *heads])
    for row in rows:
        writer.writerow([row[name] for name in (*groups, *heads)])


def write_table(
    groups: Sequence[str],
    heads: Mapping[str, str],
    rows: Sequence[Row],
    show: Callable[[str, Any], str],
) -> None:
    """The columns of `heads`, in the words of `show`."""
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for group in groups:
        table.add_column(group.upper(), overflow="fold")
    for head in heads.values():
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        shown = [row[group] if row[group] is not None else "-" for group in groups]
        table.add_row(*shown, *(show(name, row[name]) for name in heads))
    open_console().print(table)


def note_no_rows(num_rows: int) -> None:
    """Say on stderr why a report is empty; what reads stdout sees its form as always."""
    if not num_rows:
        typer.echo(
            "There are no calls in this period. A server keeps a row of each once there is an API "
            "key (`headrace keys create NAME`), or with --ledger on.",
            err=True,
        )
