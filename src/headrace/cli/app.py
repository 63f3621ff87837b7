"""The table of commands, and the typer application of the one that was typed.

A new command is one line in `COMMANDS` and one function `COMMAND(...)` in `cli/COMMAND.py`, written
as a typer command: parameters with `Annotated[..., typer.Option(help=...)]`, the docstring as help.
A command of several is a `typer.Typer` instead of the function.
A module is imported only when its command is the one typed, so keep heavy imports in those modules.
A command raises `HeadraceError` for whatever a person can mend, writes answers to stdout and
everything else to stderr, and ends by returning, or `raise typer.Exit(code)`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from headrace.cli.plain_values import PlainCommand, PlainGroup, ServeCommand
from headrace.core.frozen import frozen


@frozen
class Command:
    """A line of the help page, and the function (`module:name`) behind it."""

    summary: str
    target: str


COMMANDS: dict[str, Command] = {
    "run": Command("Answer a prompt.", "headrace.cli.run:run"),
    "chat": Command("Talk with a model.", "headrace.cli.chat:chat"),
    "embed": Command("Make vectors of texts.", "headrace.cli.embed:embed"),
    "serve": Command(
        "Serve models over HTTP, as OpenAI and Anthropic do.", "headrace.cli.serve:serve"
    ),
    "keys": Command("Make, list and revoke API keys.", "headrace.cli.keys:keys"),
    "usage": Command("Add up what was used, by tenant, model or day.", "headrace.cli.usage:usage"),
    "costs": Command("Add up costs, by tenant, model, tag or day.", "headrace.cli.costs:costs"),
    "budgets": Command("Set what may be spent, and by whom.", "headrace.cli.budgets:budgets"),
    "prices": Command("What models cost, and where that is from.", "headrace.cli.prices:prices"),
    "route": Command(
        "Compare tiers on real calls, and learn which calls need which.",
        "headrace.cli.route:route",
    ),
    "profile": Command(
        "Ask every tier every task of a workload, for real.", "headrace.cli.profile:profile"
    ),
    "plan": Command(
        "Find the cheapest tiers and moves that hold quality.", "headrace.cli.plan:plan"
    ),
    "report": Command("Write a plan as one page with plots.", "headrace.cli.report:report"),
    "capacity": Command(
        "Simulate a workload on replicas of a tier.", "headrace.cli.capacity:capacity"
    ),
    "advise": Command(
        "Compare APIs with machines of one's own, by volume.", "headrace.cli.advise:advise"
    ),
    "reproduce": Command(
        "Run a stored request again and compare the answers.", "headrace.cli.reproduce:reproduce"
    ),
    "pull": Command("Fetch a model and check it.", "headrace.cli.pull:pull"),
    "models": Command("List known and local models.", "headrace.cli.models:models"),
    "quantize": Command(
        "Write a smaller version of a model as GGUF.", "headrace.cli.quantize:quantize"
    ),
    "rm": Command("Remove a local model.", "headrace.cli.rm:rm"),
    "env": Command("Show this machine, the settings, and what runs where.", "headrace.cli.env:env"),
    "bench": Command("Measure a model, or a server under load.", "headrace.cli.bench:bench"),
    "explain": Command("Say what determines a model's speed here.", "headrace.cli.explain:explain"),
}


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """Make the typer application for these arguments: only the command they name is imported."""
    app = typer.Typer(
        name="headrace",
        cls=PlainGroup,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_root)
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    for name, command in COMMANDS.items():
        loaded = _load(command.target) if name == chosen else _not_chosen
        if isinstance(loaded, typer.Typer):
            app.add_typer(loaded, name=name, short_help=command.summary)
        else:
            kind = ServeCommand if name == "serve" else PlainCommand
            app.command(name, cls=kind, short_help=command.summary)(loaded)
    return app


def _load(target: str) -> Callable[..., Any] | typer.Typer:
    module_name, _, name = target.partition(":")
    loaded: Callable[..., Any] | typer.Typer = getattr(importlib.import_module(module_name), name)
    return loaded


def _not_chosen() -> None:
    """Stands on the help page for a command that is not the one typed."""
    raise RuntimeError("a command was run that the arguments do not name")


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"headrace {_version()}")
        raise typer.Exit()


def _version() -> str:
    # Costs as much as the rest of the help page, so it is loaded for --version alone.
    return str(importlib.import_module("headrace.core.version").headrace_version())


def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Run trained models on this machine, behind the APIs you already use."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)
