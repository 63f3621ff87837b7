"""`headrace pull`: fetch a model."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.progress import pull_model
from headrace.cli.settings import ConfigOption, load_config
from headrace.core.units import format_bytes
from headrace.hub.model_store import ModelStore
from headrace.weights.gguf import GgufReader


def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A name from `headrace models`, owner/repo or owner/repo/file.gguf on the "
            "Hugging Face hub, or an https URL of a GGUF file.",
        ),
    ],
    config_file: ConfigOption = None,
) -> None:
    """Fetch a model and check it.

    Goes on where an interrupted pull stopped. The checksum is verified before the model can be
    used. A source that does not answer is skipped for the next one.
    """
    config = load_config(config_file).hub
    store = ModelStore(config)
    model = pull_model(store, name)
    if model.path.is_file() and not model.path.is_relative_to(config.home):
        # Given by its path, which may be that of anything.
        GgufReader(model.path).close()
    typer.echo(f"{model.name} ({format_bytes(model.size_bytes)}): {model.path}")
    if model.entry is not None:
        typer.echo(f"Licence: {model.entry.licence}, {model.entry.licence_url}", err=True)
