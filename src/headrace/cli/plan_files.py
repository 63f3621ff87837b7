"""What the planning commands share: the workload, its profile, the options that name them.

In: flags. Out: a Workload, a Profile, a PriceBook, plans.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.days import read_price_day
from headrace.cli.output_file import check_output_file
from headrace.core.config import Config
from headrace.core.config_checks import check_known
from headrace.core.errors import ConfigError
from headrace.economics.price_files import open_price_book
from headrace.economics.prices import PriceBook
from headrace.planner.journal import Journal
from headrace.planner.plan import WorkloadPlan, make_plan
from headrace.planner.profile import Profile
from headrace.planner.workload import Scenario, Workload
from headrace.planner.workload_file import read_workload

WorkloadArgument = Annotated[
    Path, typer.Argument(metavar="WORKLOAD", help="YAML file of tasks and tiers.")
]
ProfileOption = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        help="What was measured. Default: beside WORKLOAD, as .profile.jsonl.",
        show_default=False,
    ),
]
ScenarioOption = Annotated[
    list[str] | None,
    typer.Option("--scenario", metavar="NAME", help="Only this one; may be repeated."),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target", metavar="SHARE", help="Saving to reach, such as 45%. Default: WORKLOAD's."
    ),
]
PricesOption = Annotated[
    list[Path] | None,
    typer.Option("--prices", metavar="FILE", help="A price file that goes before all others."),
]


def open_journal(workload: Path, profile: Path | None, *, is_new: bool = False) -> Journal:
    """The profile of a workload; one that is named is there unless it `is_new`.

    Raises: ConfigError.
    """
    if profile is not None and not is_new and not profile.exists():
        allowed = "a file that `headrace profile` wrote"
        raise ConfigError("--profile", str(profile), allowed, "There is none.")
    path = profile or workload.with_suffix(".profile.jsonl")
    if is_new:
        check_output_file("--profile", path)
    return Journal(path)


def open_profile(workload_file: Path, target: str | None, profile_file: Path | None) -> Profile:
    """What was measured of a workload, with another target if one is given.

    Who has measured nothing is told how. Raises: ConfigError.
    """
    workload = read_target(read_workload(workload_file), target)
    journal = open_journal(workload_file, profile_file)
    if journal.is_empty:
        named = [] if profile_file is None else ["--profile", str(profile_file)]
        command = shlex.join(["headrace", "profile", str(workload_file), *named])
        note = f"note: nothing is measured yet; `{command}` asks the tiers and measures them"
        typer.echo(note, err=True)
    return Profile(workload, journal)


def make_plans(
    profile: Profile, scenarios: list[str] | None, day: str | None, book: PriceBook
) -> list[WorkloadPlan]:
    """A plan of each scenario that was named, else of all. Raises: ConfigError."""
    on = read_price_day(day)
    chosen = choose_scenarios(profile.workload, scenarios)
    return [make_plan(profile, scenario, book, on) for scenario in chosen]


def read_target(workload: Workload, text: str | None) -> Workload:
    """The workload with another target. Raises: ConfigError."""
    if text is None:
        return workload
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigError("--target", text, "a share such as 45% or 0.45")
    return replace(workload, target_saving=share)


def choose_scenarios(workload: Workload, names: list[str] | None) -> tuple[Scenario, ...]:
    """Those that were named, else all. Raises: ConfigError."""
    known = {scenario.name: scenario for scenario in workload.scenarios}
    for name in names or ():
        check_known("--scenario", name, known)
    return tuple(known[name] for name in names or known)


def choose(names: str | None, known: tuple[str, ...], flag: str) -> tuple[str, ...]:
    """A list between commas. Raises: ConfigError."""
    chosen = known if names is None else tuple(name.strip() for name in names.split(","))
    for name in chosen:
        check_known(flag, name, known)
    return tuple(dict.fromkeys(chosen))


def price_book(config: Config, files: list[Path] | None) -> PriceBook:
    """Files of the command, of the settings, then what is built in. Raises: ConfigError."""
    named = [*(files or ()), *map(Path, config.economics.price_files)]
    return open_price_book([path.expanduser() for path in named], config.economics.stale_after_days)
