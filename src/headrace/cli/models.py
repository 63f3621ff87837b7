"""`headrace models`: what can be pulled by name, and what is on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.settings import ConfigOption, load_config
from headrace.cli.tables import open_console
from headrace.core.config import DEFAULT_MODEL
from headrace.core.frozen import frozen
from headrace.core.units import format_bytes, format_count
from headrace.hub.model_store import ModelStore

# With the other columns this fits 80; longer names are folded, never cut.
MAX_NAME_COLUMNS = 28
LEAST_TABLE_COLUMNS = 76


@frozen(kw_only=True)
class ModelRow:
    """One line of the table. None is what nobody has stated."""

    name: str
    is_default: bool
    is_local: bool
    path: str | None
    size_bytes: int
    description: str | None = None
    aliases: tuple[str, ...] = ()
    num_parameters: int | None = None
    quantization: str | None = None
    context_length: int | None = None
    licence: str | None = None
    is_base: bool = False


def models(
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config_file: ConfigOption = None,
) -> None:
    """List models: those known by name, and everything that is on this machine."""
    config = load_config(config_file)
    rows = list_rows(ModelStore(config.hub))
    if is_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    console = open_console()
    if console.width < LEAST_TABLE_COLUMNS:
        for row in rows:
            typer.echo(_in_lines(row))
    else:
        console.print(_make_table(rows))
    if any(row.is_base for row in rows):
        typer.echo("(base): continues text and does not chat; use headrace run --raw", err=True)
    typer.echo(f"Local models are in {config.hub.home / 'models'}", err=True)


def list_rows(store: ModelStore) -> list[ModelRow]:
    """The catalogue in its order, then the other local models."""
    local = {model.name: model for model in store.list()}
    rows = []
    for entry in store.catalogue.entries:
        model = local.pop(entry.name, None)
        rows.append(
            ModelRow(
                name=entry.name,
                is_default=entry.name == DEFAULT_MODEL,
                is_local=model is not None,
                path=str(model.path) if model else None,
                size_bytes=model.size_bytes if model else entry.size_bytes,
                description=entry.description,
                aliases=entry.aliases,
                num_parameters=entry.num_parameters,
                quantization=entry.quantization,
                context_length=entry.context_length,
                licence=entry.licence,
                is_base=entry.is_base,
            )
        )
    for model in local.values():
        rows.append(
            ModelRow(
                name=model.name,
                is_default=False,
                is_local=True,
                path=str(model.path),
                size_bytes=model.size_bytes,
            )
        )
    return rows


def _shown_name(row: ModelRow) -> str:
    mark = " (default)" if row.is_default else " (base)" if row.is_base else ""
    return row.name + mark


def _in_lines(row: ModelRow) -> str:
    """A model where there is no room for a table."""
    facts = [format_count(row.num_parameters) if row.num_parameters else None, row.quantization]
    facts += [format_bytes(row.size_bytes), row.licence, "local" if row.is_local else "not local"]
    context = f"context {row.context_length}" if row.context_length else None
    return "\n  ".join(
        [_shown_name(row), *(fact for fact in [*facts[:3], context, *facts[3:]] if fact)]
    )


def _make_table(rows: list[ModelRow]) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    # A name is what people copy: on a narrow terminal the licence is broken instead.
    is_short = all(len(_shown_name(row)) <= MAX_NAME_COLUMNS for row in rows)
    table.add_column("NAME", overflow="fold", no_wrap=is_short)
    for title in ("PARAMS", "QUANT", "SIZE", "CONTEXT"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("LICENCE", overflow="fold")
    table.add_column("LOCAL", no_wrap=True, min_width=5)
    for row in rows:
        table.add_row(
            _shown_name(row),
            format_count(row.num_parameters) if row.num_parameters else "-",
            row.quantization or "-",
            format_bytes(row.size_bytes),
            str(row.context_length) if row.context_length else "-",
            row.licence or "-",
            "yes" if row.is_local else "no",
        )
    return table
