"""`headrace report`: a plan as one HTML file with plots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.plan import print_plan
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
from headrace.planner.plan import make_plan
from headrace.planner.profile import Profile
from headrace.planner.report import render_report
from headrace.planner.workload_file import read_workload


def report(
    workload_file: WorkloadArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The page. Default: beside WORKLOAD, as .report.html.",
            show_default=False,
        ),
    ] = None,
    scenario: ScenarioOption = None,
    target: TargetOption = None,
    day: PlanDayOption = None,
    prices: PricesOption = None,
    profile_file: ProfileOption = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Write the page and print no tables.")
    ] = False,
    config_file: ConfigOption = None,
) -> None:
    """Write what `headrace plan` finds as one HTML file that needs nothing else, and print it."""
    workload = read_target(read_workload(workload_file), target)
    found = Profile(workload, open_journal(workload_file, profile_file))
    book = price_book(load_config(config_file), prices)
    plans = [
        make_plan(found, chosen, book, read_plan_day(day))
        for chosen in choose_scenarios(workload, scenario)
    ]
    if not quiet:
        for made in plans:
            print_plan(made, found)
    page = output or workload_file.with_suffix(".report.html")
    page.write_text(render_report(plans, found), encoding="utf-8")
    typer.echo(f"report: {page}", err=True)
