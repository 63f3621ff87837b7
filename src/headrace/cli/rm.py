"""`headrace rm`: remove a local model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from headrace.cli.settings import ConfigOption, load_config
from headrace.core.errors import HeadraceError
from headrace.core.units import format_bytes
from headrace.hub.model_store import ModelStore


def rm(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A local model, as `headrace models` shows it.")
    ],
    is_confirmed: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config_file: ConfigOption = None,
) -> None:
    """Remove a local model, and what interrupted pulls of it left."""
    store = ModelStore(load_config(config_file).hub)
    store.check_removable(name)
    if not is_confirmed:
        _confirm(name)
    num_bytes = store.remove(name)
    typer.echo(f"{name} removed, {format_bytes(num_bytes)} freed")


def _confirm(name: str) -> None:
    """Ask on the terminal; without one nobody could answer."""
    if sys.stdin is None or not sys.stdin.isatty():
        text = f"{name} was not removed: there is no terminal to ask on. Give --yes to remove it."
        raise HeadraceError(text)
    if not typer.confirm(f"Remove {name}?", err=True):
        typer.echo("nothing was removed", err=True)
        raise typer.Exit(1)
