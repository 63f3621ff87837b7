"""`headrace capacity`: how many replicas a workload needs, simulated from measured steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.plan_files import ProfileOption, WorkloadArgument, open_journal
from headrace.cli.settings import ConfigOption, load_config
from headrace.cli.tables import open_console
from headrace.core.config_checks import check_known
from headrace.core.errors import ConfigError
from headrace.core.units import format_seconds
from headrace.planner.autoscale import ScalingRule
from headrace.planner.plan_text import dollars
from headrace.planner.profile import Profile
from headrace.planner.sizing import Demand, Size, TaskTimes, sizes
from headrace.planner.workload import DAY_S
from headrace.planner.workload_file import read_workload

_HEADINGS = ("replicas", "task", "calls", "first token p50 p90 p99", "per token", "whole answer",
             "objective", "busy", "USD a day")  # fmt: skip


def capacity(
    workload_file: WorkloadArgument,
    tier: Annotated[str, typer.Option(metavar="NAME", help="Tier that serves all tasks.")],
    replicas: Annotated[
        int, typer.Option(metavar="N", min=1, help="Most replicas to try, from 1 on.")
    ] = 4,
    peak: Annotated[
        float, typer.Option(metavar="X", help="Load, as a multiple of the day's mean rate.")
    ] = 3.0,
    minutes: Annotated[
        int, typer.Option(metavar="N", min=1, help="Time of arrivals that is simulated.")
    ] = 60,
    autoscale: Annotated[
        bool, typer.Option("--autoscale", help="Also simulate scaling from 1 to --replicas.")
    ] = False,
    start_s: Annotated[
        float, typer.Option(metavar="S", help="Seconds until a new replica serves.")
    ] = 20.0,
    usd_per_hour: Annotated[
        str | None,
        typer.Option(metavar="USD", help="Of a replica. Default: the tier's.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Same seed, same arrivals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    profile_file: ProfileOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Simulate a tier under load: latencies, utilization and cost for each number of replicas.

    Steps take as long as `headrace profile` measured for what is in them; calls are drawn from
    those that it measured, at each task's arrivals. What a step may hold is as the settings say.
    Nothing is run.
    """
    workload = read_workload(workload_file)
    real = tuple(name for name, entry in workload.tiers.items() if entry.is_local)
    check_known("--tier", tier, real)
    chosen = workload.tiers[tier]
    if not 0 < peak <= 1000:
        raise ConfigError("--peak", peak, "more than 0, at most 1000")
    if not 0 <= start_s <= DAY_S:
        raise ConfigError("--start-s", start_s, f"seconds, from 0 to {DAY_S}")
    rules = [ScalingRule(count, count) for count in range(1, replicas + 1)]
    if autoscale:
        rules.append(ScalingRule(1, replicas, start_s=start_s))
    found = sizes(
        Profile(workload, open_journal(workload_file, profile_file)),
        chosen,
        Demand(peak, 60.0 * minutes, seed),
        rules,
        chosen.usd_per_hour if usd_per_hour is None else _read_usd(usd_per_hour),
        load_config(config_file).engine,
    )
    if as_json:
        typer.echo(json.dumps([asdict(size) for size in found], indent=2))
        return
    _print(list(found))


def _read_usd(text: str) -> Decimal:
    """Raises: ConfigError."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or value < 0:
        raise ConfigError("--usd-per-hour", text, "dollars, such as 0.15")
    return value


def _print(found: list[Size]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in _HEADINGS:
        table.add_column(heading.upper())
    for size in found:
        for row in _rows(size):
            table.add_row(*row)
    open_console().print(table)
    enough = next((size for size in found if size.holds), None)
    if enough is None:
        typer.echo("No count that was tried holds every objective at this load.")
    else:
        typer.echo(f"{_name(enough.rule)} is enough for every objective at this load.")


def _rows(size: Size) -> Iterator[tuple[str, ...]]:
    for number, task in enumerate(size.tasks):
        is_first = number == 0
        yield (
            _name(size.rule) if is_first else "",
            task.task,
            str(task.count),
            _times(task.ttft_s),
            "-" if task.tpot_s is None else _times(task.tpot_s),
            _times(task.e2e_s),
            _held(task),
            f"{size.utilization:.0%}" if is_first else "",
            ("-" if size.nano_usd is None else dollars(size.nano_usd)) if is_first else "",
        )


def _name(rule: ScalingRule) -> str:
    return str(rule.most) if rule.least == rule.most else f"{rule.least} to {rule.most}"


def _held(task: TaskTimes) -> str:
    return "-" if task.holds is None else "holds" if task.holds else "missed"


def _times(values: tuple[float, ...]) -> str:
    return "  ".join(format_seconds(value) for value in values)
