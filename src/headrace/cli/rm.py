"""`headrace rm`: remove a local model."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.settings import ConfigOption, load_config
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
    if not is_confirmed:
        typer.confirm(f"Remove {name}?", abort=True, err=True)
    num_bytes = store.remove(name)
    typer.echo(f"{name} removed, {format_bytes(num_bytes)} freed")
