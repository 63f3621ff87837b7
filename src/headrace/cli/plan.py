"""`headrace plan`: the cheapest way to do a workload that holds quality, and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headrace.cli.keys import PIPE_COLUMNS
from headrace.cli.plan_files import (
    PlanDayOption,
    PricesOption,
    ProfileOption,
    ScenarioOption,
    TargetOption,
    WorkloadArgument,
    choose_scenarios,
    open_journal,
    price_book,
    read_plan_day,
    read_target,
)
from headrace.cli.settings import ConfigOption, load_config
from headrace.planner.plan import WorkloadPlan, make_plan
from headrace.planner.plan_json import plan_json
from headrace.planner.plan_text import (
    BOUND_HEADINGS,
    MOVE_HEADINGS,
    QUALITY_HEADINGS,
    assumptions,
    bound_rows,
    conclusions,
    move_rows,
    quality_rows,
)
from headrace.planner.profile import Profile
from headrace.planner.workload_file import read_workload


def plan(
    workload_file: WorkloadArgument,
    scenario: ScenarioOption = None,
    target: TargetOption = None,
    day: PlanDayOption = None,
    prices: PricesOption = None,
    profile_file: ProfileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config_file: ConfigOption = None,
) -> None:
    """Find the cheapest tier and moves for each task that hold every floor and objective.

    Shows what each move saves at most before anything is measured, what was measured on which
    samples, and the smallest set of moves that reaches the target; or that none does. Asks no
    model: run `headrace profile WORKLOAD` before. Other prices need no other profile.
    """
    workload = read_target(read_workload(workload_file), target)
    found = Profile(workload, open_journal(workload_file, profile_file))
    book = price_book(load_config(config_file), prices)
    plans = [
        make_plan(found, chosen, book, read_plan_day(day))
        for chosen in choose_scenarios(workload, scenario)
    ]
    if as_json:
        typer.echo(json.dumps([plan_json(made, found) for made in plans], indent=2))
        return
    for made in plans:
        print_plan(made, found)


def print_plan(made: WorkloadPlan, profile: Profile) -> None:
    """All of a plan on the terminal."""
    workload = profile.workload
    # A pipe has no width; lines that a program reads are not broken.
    console = Console() if sys.stdout.isatty() else Console(width=PIPE_COLUMNS)
    console.print(Text(f"\n{workload.name}: {made.scenario.name}", style="bold"))
    _print_table(console, "What each task costs today", BOUND_HEADINGS, bound_rows(made, workload))
    _print_table(console, "What was measured", QUALITY_HEADINGS, quality_rows(made, workload))
    _print_table(console, "Single moves", MOVE_HEADINGS, move_rows(made))
    for title, sentences in (
        ("Conclusions", conclusions(made, workload)),
        ("Assumptions", assumptions(made, profile)),
    ):
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
