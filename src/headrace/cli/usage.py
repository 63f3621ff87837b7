"""`headrace usage`: what was used, added up by tenant, key, user, model, tier, task or day."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from headrace.cli.days import SinceOption, UntilOption, read_period
from headrace.cli.keys import DatabaseOption
from headrace.cli.ledger_report import (
    make_rows,
    note_no_rows,
    open_ledger,
    read_groups,
    write_csv,
    write_table,
)
from headrace.cli.settings import ConfigOption
from headrace.core.errors import ConfigError
from headrace.economics.ledger import DIMENSIONS, UsageLedger

FORMATS = ("table", "json", "csv")
# In a table seconds are rounded; what is 0 in every row is left out.
_HEADS = {
    "requests": "REQUESTS",
    "parts": "PARTS",
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
            help="tenant, key, user (a digest), model, tier, task or day; may be repeated. "
            "Default: tenant.",
        ),
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    form: Annotated[
        str, typer.Option("--format", metavar="FORM", help="table, json or csv.")
    ] = "table",
    database: DatabaseOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Add up the usage ledger: tokens and seconds of every call, also of those cut off.

    Cached tokens are part of the input, reasoning is part of the output. INPUT (ESTIMATED) stands
    for prompts of calls that ended before their tokens were reported; it is in no other column.
    PARTS are what other backends did for a call, or beside it as shadows; their tokens are in their
    tier's and model's rows.
    """
    if form not in FORMATS:
        raise ConfigError("--format", form, f"one of {', '.join(FORMATS)}")
    groups = read_groups(by or ["tenant"], DIMENSIONS)
    since_ms, until_ms = read_period(since, until)
    with open_ledger(database, config_file, "There is no usage") as opened:
        rows = make_rows(groups, UsageLedger(opened).report(groups, since_ms, until_ms))
    if form == "json":
        typer.echo(json.dumps(rows, indent=2))
    elif form == "csv":
        write_csv(groups, _HEADS, rows)
    else:
        shown = [name for name in _HEADS if name in _ALWAYS or any(row[name] for row in rows)]
        write_table(groups, {name: _HEADS[name] for name in shown}, rows, _show)
    note_no_rows(len(rows))


def _show(_name: str, value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.1f}"
