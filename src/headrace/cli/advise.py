"""`headrace advise`: an API or a machine of one's own, from which volume on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.days import PriceDayOption, read_price_day
from headrace.cli.plan_files import (
    PricesOption,
    ProfileOption,
    WorkloadArgument,
    choose,
    open_journal,
    price_book,
)
from headrace.cli.settings import ConfigOption, load_config
from headrace.cli.tables import open_console
from headrace.core.errors import ConfigError
from headrace.core.units import format_count
from headrace.planner.advisor import (
    BreakEven,
    CostAt,
    compare,
    day_mix,
    measured_machine,
    read_catalogue,
)
from headrace.planner.plan_text import dollars
from headrace.planner.profile import Profile
from headrace.planner.workload_file import read_workload

_APIS = ("anthropic/claude-sonnet-4-6", "openai/gpt-5-mini", "mistral/mistral-small-2603")


def advise(
    workload_file: WorkloadArgument,
    tier: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Tier of this machine that was measured, to compare."),
    ] = None,
    api: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PRICE", help=f"provider/model; may be repeated. Default: {', '.join(_APIS)}."
        ),
    ] = None,
    machine: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=USD", help="A machine's dollars per hour; may be repeated."),
    ] = None,
    most_utilization: Annotated[
        float,
        typer.Option(metavar="SHARE", help="How busy a machine may be before another is due."),
    ] = 0.7,
    day: PriceDayOption = None,
    prices: PricesOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    profile_file: ProfileOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Compare APIs with machines of one's own, by volume and utilization.

    Rates of machines are assumed and printed; --machine replaces them or adds some. A machine that
    was not measured is taken to carry the load alone: the tokens per second that this needs stand
    beside it. People, power and storage are left out, and quality is taken to be equal.
    """
    workload = read_workload(workload_file)
    profile = Profile(workload, open_journal(workload_file, profile_file))
    real = tuple(name for name, entry in workload.tiers.items() if entry.is_local)
    chosen = None if tier is None else workload.tiers[choose(tier, real, "--tier")[0]]
    if not 0 < most_utilization <= 1:
        raise ConfigError("--most-utilization", most_utilization, "more than 0, at most 1")
    mix = day_mix(profile, chosen)
    if mix is None or not mix.total:
        allowed = "tasks with tokens, or a --tier that was asked all of them"
        raise ConfigError("workload", str(workload_file), allowed)
    machines = list(read_catalogue(_read_rates(machine or [])))
    here = None if chosen is None else measured_machine(chosen, profile)
    if here is not None:
        machines.insert(0, here)
    book, on = price_book(load_config(config_file), prices), read_price_day(day)
    found = []
    for name in api or _APIS:
        provider, _, model = name.partition("/")
        price = book.find(provider, model, on)
        if price is None:
            raise ConfigError("--api", name, "a price: `headrace prices list` shows them")
        found.append(price)
    pairs = list(compare(machines, found, mix, most_utilization))
    if as_json:
        typer.echo(json.dumps([asdict(pair) for pair in pairs], indent=2, default=str))
        return
    typer.echo(
        f"{workload.name}: {format_count(round(mix.input))} input and "
        f"{format_count(round(mix.output))} output tokens a day; prices of {on}"
    )
    _print(pairs)
    for entry in machines:
        typer.echo(f"  {entry.name}: {dollars(entry.nano_usd_per_hour)} USD an hour; {entry.note}")


def _read_rates(texts: Sequence[str]) -> dict[str, Decimal]:
    """Raises: ConfigError."""
    rates = {}
    for text in texts:
        name, _, usd = text.partition("=")
        try:
            value = Decimal(usd)
        except InvalidOperation:
            value = Decimal(-1)
        if not name or not value.is_finite() or value <= 0:
            raise ConfigError("--machine", text, "a name and dollars per hour: edge=0.15")
        rates[name] = value
    return rates


def _machines(cost: CostAt) -> str:
    """What the machines cost and how many; of one that was not measured, one at least."""
    shown = dollars(cost.machine_nano_usd)
    return f"from {shown}" if cost.num_machines is None else f"{shown} ({cost.num_machines})"


def _print(pairs: Sequence[BreakEven]) -> None:
    table = Table(box=None, pad_edge=False)
    volumes = [f"at {float(cost.volume):g}x" for cost in pairs[0].costs] if pairs else []
    for heading in ("machine", "api", "a day", "pays from", "busy then", *volumes):
        table.add_column(heading.upper())
    for pair in pairs:
        table.add_row(
            pair.machine.name,
            pair.api.model,
            dollars(pair.machine.day_nano_usd),
            "never"
            if pair.never_pays
            else f"{format_count(round(pair.tokens_a_day))} tokens a day",
            f"{pair.tokens_per_s:.0f} tokens/s needed"
            if pair.utilization is None
            else f"{pair.utilization:.0%} of its time",
            *(f"{_machines(cost)} : {dollars(cost.api_nano_usd)}" for cost in pair.costs),
        )
    open_console().print(table)
    typer.echo("Columns at 1x and so on: dollars a day, machines (how many) : API.")
