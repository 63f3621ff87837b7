"""`headrace plan`: the cheapest way to do a workload that holds quality, and why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headrace.cli.days import PriceDayOption
from headrace.cli.output_file import check_output_file
from headrace.cli.plan_files import (
    PricesOption,
    ProfileOption,
    ScenarioOption,
    TargetOption,
    WorkloadArgument,
    make_plans,
    open_profile,
    price_book,
)
from headrace.cli.settings import ConfigOption, load_config
from headrace.cli.tables import open_console
from headrace.core.errors import ConfigError
from headrace.planner.agreement import agreements
from headrace.planner.plan import WorkloadPlan
from headrace.planner.plan_json import plan_json
from headrace.planner.plan_text import (
    AGREEMENT_HEADINGS,
    BOUND_HEADINGS,
    MOVE_HEADINGS,
    QUALITY_HEADINGS,
    agreement_rows,
    agreement_sentences,
    assumptions,
    bound_rows,
    conclusions,
    move_rows,
    quality_rows,
)
from headrace.planner.profile import Profile
from headrace.planner.tier_rules import render_tiers


class Choice(StrEnum):
    """An assignment of a plan."""

    CHEAPEST = "cheapest"
    SMALLEST = "smallest"


def plan(
    workload_file: WorkloadArgument,
    scenario: ScenarioOption = None,
    target: TargetOption = None,
    day: PriceDayOption = None,
    prices: PricesOption = None,
    profile_file: ProfileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    write_tiers: Annotated[
        Path | None,
        typer.Option(
            "--write-tiers",
            metavar="FILE",
            help="Write the assignment as tiers for `headrace serve --config FILE`.",
            show_default=False,
        ),
    ] = None,
    choice: Annotated[
        Choice, typer.Option(help="Which assignment: the cheapest, or the fewest moves.")
    ] = Choice.CHEAPEST,
    config_file: ConfigOption = None,
) -> None:
    """Find the cheapest tier and moves for each task that hold every floor and objective.

    Shows what each move saves at most before anything is measured, what was measured on which
    samples, and the smallest set of moves that reaches the target; or that none does. Asks no
    model: run `headrace profile WORKLOAD` before. Other prices need no other profile.
    """
    check_output_file("--write-tiers", write_tiers)
    found = open_profile(workload_file, target, profile_file)
    plans = make_plans(found, scenario, day, price_book(load_config(config_file), prices))
    if as_json:
        typer.echo(json.dumps([plan_json(made, found) for made in plans], indent=2))
    else:
        print_plans(plans, found)
    if write_tiers is not None:
        _write_tiers(write_tiers, plans, choice, found)


def _write_tiers(
    file: Path, plans: Sequence[WorkloadPlan], choice: Choice, profile: Profile
) -> None:
    """Raises: ConfigError where there is not one assignment to write."""
    if len(plans) != 1:
        names = ", ".join(made.scenario.name for made in plans)
        allowed = "one scenario"
        raise ConfigError("--write-tiers", names, allowed, "Name it with --scenario.")
    chosen = plans[0].smallest if choice is Choice.SMALLEST else plans[0].cheapest
    if chosen is None:
        allowed = f"a plan that has a {choice.value} assignment"
        hint = "This one has none; its conclusions say why."
        raise ConfigError("--write-tiers", str(file), allowed, hint)
    file.write_text(render_tiers(plans[0], profile.workload, chosen), encoding="utf-8")
    typer.echo(f"tiers: {file}", err=True)


def print_plans(plans: Sequence[WorkloadPlan], profile: Profile) -> None:
    """Each of them, then what judges said of all."""
    for made in plans:
        print_plan(made, profile)
    judged = list(agreements(profile))
    if judged:
        console = open_console()
        title = "Judges beside metrics"
        _print_table(console, title, AGREEMENT_HEADINGS, agreement_rows(judged))
        _print_sentences(console, "What judges are worth", agreement_sentences(judged))


def print_plan(made: WorkloadPlan, profile: Profile) -> None:
    """All of a plan on the terminal."""
    workload = profile.workload
    console = open_console()
    console.print(Text(f"\n{workload.name}: {made.scenario.name}", style="bold"))
    _print_table(console, "What each task costs today", BOUND_HEADINGS, bound_rows(made, workload))
    _print_table(console, "What was measured", QUALITY_HEADINGS, quality_rows(made, workload))
    _print_table(console, "Single moves", MOVE_HEADINGS, move_rows(made))
    _print_sentences(console, "Conclusions", conclusions(made, workload))
    _print_sentences(console, "Assumptions", assumptions(made, profile))


def _print_sentences(console: Console, title: str, sentences: Iterable[str]) -> None:
    console.print(Text(f"\n{title}"))
    for sentence in sentences:
        console.print(Text(f"  {sentence}"))


def _print_table(
    console: Console, title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="none")
    for heading in headings:
        table.add_column(heading.upper(), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(Text(""))
    console.print(table)
