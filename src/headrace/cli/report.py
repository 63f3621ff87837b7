"""`headrace report`: a plan as one HTML file with plots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.days import PriceDayOption
from headrace.cli.output_file import check_output_file
from headrace.cli.plan import print_plans
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
from headrace.core.errors import ConfigError
from headrace.planner.report import render_report


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
    day: PriceDayOption = None,
    prices: PricesOption = None,
    profile_file: ProfileOption = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Write the page and print no tables.")
    ] = False,
    config_file: ConfigOption = None,
) -> None:
    """Write what `headrace plan` finds as one HTML file that needs nothing else, and print it."""
    found = open_profile(workload_file, target, profile_file)
    page = output or workload_file.with_suffix(".report.html")
    check_output_file("--output", page)
    plans = make_plans(found, scenario, day, price_book(load_config(config_file), prices))
    if found.journal.is_empty and all(made.today_nano_usd is None for made in plans):
        allowed = "a file with answers, or tasks with `tokens` and a baseline with a price"
        raise ConfigError(
            "--profile", str(found.journal.path), allowed, "There is nothing to report yet."
        )
    if not quiet:
        print_plans(plans, found)
    # YAML can name half of a surrogate pair, which is no UTF-8.
    text = render_report(plans, found).encode("utf-8", "backslashreplace")
    page.write_bytes(text)
    typer.echo(f"report: {page}", err=True)
