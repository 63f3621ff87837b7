"""`headrace rm`: remove a local model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from headrace.cli.settings import ConfigOption, load_config
from headrace.core.config import HubConfig
from headrace.core.errors import HeadraceError
from headrace.core.units import format_bytes
from headrace.hub.model_store import ModelStore
from headrace.text.tokenizer_cache import forget
from headrace.weights.gguf import GgufReader


def rm(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A local model, as `headrace models` shows it.")
    ],
    is_confirmed: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config_file: ConfigOption = None,
) -> None:
    """Remove a local model, and what interrupted pulls and earlier starts of it left."""
    config = load_config(config_file).hub
    store = ModelStore(config)
    store.check_removable(name)
    if not is_confirmed:
        _confirm(name)
    num_bytes = _forget_tokenizer(store, name, config) + store.remove(name)
    typer.echo(f"{name} removed, {format_bytes(num_bytes)} freed")


def _forget_tokenizer(store: ModelStore, name: str, config: HubConfig) -> int:
    """Delete the built tokenizer, which is kept by what the file says; returns the bytes freed."""
    try:
        reader = GgufReader(store.resolve(name).path)
    except (HeadraceError, OSError):
        return 0  # not whole, not readable, or a folder, for which nothing is kept
    try:
        return forget(config.home / "tokenizers", reader.metadata_digest())
    finally:
        reader.close()


def _confirm(name: str) -> None:
    """Ask on the terminal; without one nobody could answer."""
    if sys.stdin is None or not sys.stdin.isatty():
        text = f"{name} was not removed: there is no terminal to ask on. Give --yes to remove it."
        raise HeadraceError(text)
    if not typer.confirm(f"Remove {name}?", err=True):
        typer.echo("nothing was removed", err=True)
        raise typer.Exit(1)
