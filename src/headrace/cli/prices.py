"""`headrace prices`: what a million tokens of a model cost, and where that is from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from headrace.cli.days import PriceDayOption, UntilOption, read_period, read_price_day
from headrace.cli.keys import DatabaseOption, database_of
from headrace.cli.plain_values import PlainCommand, PlainGroup
from headrace.cli.settings import ConfigOption, load_config
from headrace.cli.tables import open_console
from headrace.core.clock import SystemClock
from headrace.core.errors import ConfigError, HeadraceError
from headrace.economics.ledger import UsageLedger
from headrace.economics.machine_price import MachineWork, ServedCall, measure_work
from headrace.economics.price_files import open_price_book, read_price_file
from headrace.economics.prices import (
    KINDS,
    LOCAL,
    Price,
    PriceBook,
    Rates,
    Schedule,
    format_usd,
)

_HEADS = {
    "input": "INPUT",
    "cached_input": "CACHED",
    "cache_write": "WRITE 5m",
    "cache_write_1h": "WRITE 1h",
    "output": "OUTPUT",
    "reasoning": "REASONING",
}
# A machine that works less than this is priced by its idle time.
_LOW_UTILIZATION = 0.05

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def list_(
    provider: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only this one: openai, anthropic, ..., or local."),
    ] = None,
    day: PriceDayOption = None,
    is_json: JsonOption = False,
    config_file: ConfigOption = None,
) -> None:
    """List the prices that hold, in dollars per million tokens.

    Files of `economics.price_files` come first, then what is built in. An empty field has no price
    of its own: cached and written input cost what input costs, reasoning what output costs.
    """
    book, on = _open(config_file), read_price_day(day)
    known = _providers(book)
    if provider is not None and provider not in known:
        hint = "Add a price of it to a file of economics.price_files."
        allowed = f"a provider with a price: {', '.join(known)}"
        raise ConfigError("--provider", provider, allowed, hint)
    prices = [price for price in _valid(book, on) if provider in (None, price.provider)]
    if is_json:
        typer.echo(json.dumps([_as_json(price, book, on) for price in prices], indent=2))
        return
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for title in ("PROVIDER", "MODEL", *_HEADS.values(), "SINCE", "STATE"):
        is_number = title in _HEADS.values()
        table.add_column(title, justify="right" if is_number else "left", overflow="fold")
    for price in prices:
        table.add_row(
            price.provider,
            price.model,
            *(_show(getattr(price.standard.rates, kind)) for kind in KINDS),
            "-" if price.effective_from is None else price.effective_from.isoformat(),
            price.state(on, book.stale_after_days),
        )
    open_console().print(table)


def show(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model, as it is asked.")],
    provider: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose model. Default: every one that has it."),
    ] = None,
    day: PriceDayOption = None,
    is_json: JsonOption = False,
    config_file: ConfigOption = None,
) -> None:
    """Show all of a model's price: batches, long prompts, validity, source.

    Of a model on an own machine both costs are shown: in full, with the share of idle time, and
    marginal, the time alone that the tokens take.
    """
    book, on = _open(config_file), read_price_day(day)
    names = (provider,) if provider is not None else _providers(book)
    found = [price for name in names if (price := book.find(name, model, on)) is not None]
    if not found:
        raise HeadraceError(
            f"{model} is unpriced on {on}: no price file and no built-in table has it. Add it to a "
            "file of economics.price_files; `headrace prices list` shows what there is."
        )
    if is_json:
        typer.echo(json.dumps([_as_json(price, book, on) for price in found], indent=2))
        return
    typer.echo("\n\n".join("\n".join(_describe(price, book, on)) for price in found))


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A price file of any kind.")],
    day: PriceDayOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Read a price file and show what it would change; nothing is kept.

    It may be YAML of headrace, the JSON of genai-prices or of LiteLLM. Changes are those of a file
    that is named first in `economics.price_files`, in dollars per million tokens.
    """
    book, on = _open(config_file), read_price_day(day)
    table = read_price_file(file.expanduser())
    new = PriceBook([table.prices], book.stale_after_days)
    num_new = num_changed = num_same = 0
    for price in _valid(new, on):
        known = book.find(price.provider, price.model, on)
        if known is not None and known.standard == price.standard and known.batch == price.batch:
            num_same += 1
            continue
        num_new += known is None
        num_changed += known is not None
        before = "unpriced" if known is None else _all_rates(known)
        typer.echo(f"{price.provider}/{price.model}: {before} -> {_all_rates(price)}")
    typer.echo(
        f"{file}: {_in_force(len(table.prices), num_new + num_changed + num_same, on)}", err=True
    )
    if num_new or num_changed:
        counts = f"{num_new} new, {num_changed} changed, {num_same} as before"
        typer.echo(f"If it is named first in economics.price_files: {counts}.", err=True)
    else:
        typer.echo("It would change nothing.", err=True)
    for note in table.notes:
        typer.echo(f"note: {note}", err=True)


def measure(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model that runs here.")],
    usd_per_hour: Annotated[
        str, typer.Option(metavar="USD", help="What the machine costs per hour, idle or not.")
    ],
    since: Annotated[
        str | None,
        typer.Option(metavar="DAY", help="First day, UTC: 2026-11-01, or 7d. Default: all."),
    ] = None,
    until: UntilOption = None,
    database: DatabaseOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Measure an own machine from the usage ledger and write its entry of a price file.

    The entry goes to stdout: how fast the machine computed, at the load that it had, and the share
    of the time in which it worked. The time is from the first call, of those since the first day
    where one is given, until the end of the last day, else until now.
    """
    try:
        is_price = Decimal(usd_per_hour).is_finite() and Decimal(usd_per_hour) >= 0
    except InvalidOperation:
        is_price = False
    if not is_price:
        raise ConfigError("--usd-per-hour", usd_per_hour, "dollars, such as 0.15")
    since_ms, until_ms = read_period(since, until)
    config = load_config(config_file, {"store.database_url": database})
    opened = database_of(config)
    calls: list[ServedCall] = []
    if opened.exists():
        try:
            calls = UsageLedger(opened).served_calls(model, since_ms, until_ms)
        finally:
            opened.close()
    now_s = SystemClock().unix_s()
    end_s = now_s if until_ms is None else min(now_s, until_ms / 1000)
    # Before its first call a server may not have been there: that is no idle time.
    begin_s = calls[0].accepted_at_s if calls else end_s
    work = measure_work(calls, begin_s, end_s)
    if work is None:
        raise HeadraceError(_why_unmeasured(model, len(calls), opened.shown))
    typer.echo(
        f"{work.num_calls} calls, {work.busy_s:.0f} s of work in {work.span_s:.0f} s: since the "
        f"first call at {_instant(begin_s)}",
        err=True,
    )
    if work.utilization < _LOW_UTILIZATION:
        typer.echo(
            f"warning: the machine worked {work.utilization:.2%} of that time, so this price is "
            f"{1 / work.utilization:,.0f} times that of the work alone. Measure days of usual load "
            "(--since, --until), or write the share that you expect as utilization.",
            err=True,
        )
    typer.echo("\n".join(_machine_lines(model, usd_per_hour, work, datetime.now(UTC).date())))


def _why_unmeasured(model: str, num_calls: int, database: str) -> str:
    if not num_calls:
        return f"The usage ledger has no finished calls of {model} in that time: {database}."
    calls = "1 call" if num_calls == 1 else f"{num_calls} calls"
    return (
        f"The {calls} of {model} in that time computed no prompt, or no answer, and a machine's "
        "price needs the speed of both. Encoders have no answers; a prompt that is cached is not "
        "computed."
    )


def _in_force(count: int, num_valid: int, day: date) -> str:
    if not count:
        return "no prices"
    counted = "1 price" if count == 1 else f"{count} prices"
    return f"{counted}, {num_valid or 'none'} in force on {day}"


def _instant(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _machine_lines(model: str, usd_per_hour: str, work: MachineWork, day: date) -> Iterator[str]:
    yield "machines:"
    yield f"  - models: [{json.dumps(model)}]"
    yield f"    usd_per_hour: {usd_per_hour}"
    yield f"    input_tokens_per_s: {work.input_tokens_per_s:.3f}"
    yield f"    output_tokens_per_s: {work.output_tokens_per_s:.3f}"
    yield f"    utilization: {max(work.utilization, 0.0001):.4f}"
    yield f"    concurrency: {work.concurrency:.2f}"
    yield f"    measured_on: {day}"
    yield f"    source: usage ledger, {work.num_calls} calls"


def _open(config_file: ConfigOption) -> PriceBook:
    config = load_config(config_file).economics
    files = [Path(file).expanduser() for file in config.price_files]
    return open_price_book(files, config.stale_after_days)


def _valid(book: PriceBook, day: date) -> Iterator[Price]:
    """Prices that hold, without those that a table before them or a later date hides."""
    seen: set[tuple[str, str]] = set()
    for table in book.tables:
        newest: dict[tuple[str, str], Price] = {}
        for price in table:
            key = (price.provider, price.model)
            if key not in seen and price.is_valid(day):
                other = newest.get(key)
                if other is None or _since(other) < _since(price):
                    newest[key] = price
        seen |= newest.keys()
        yield from newest.values()


def _since(price: Price) -> date:
    return price.effective_from or date.min


def _providers(book: PriceBook) -> Sequence[str]:
    return list(dict.fromkeys(price.provider for table in book.tables for price in table))


def _describe(price: Price, book: PriceBook, day: date) -> Iterator[str]:
    yield f"{price.provider}/{price.model}  ({price.state(day, book.stale_after_days)} on {day})"
    yield from _schedule_lines("USD per million tokens", price.standard)
    if price.batch is not None:
        yield from _schedule_lines("in batches", price.batch)
    if price.marginal is not None and price.machine is not None:
        machine = price.machine
        yield from _schedule_lines("marginal, without idle time", price.marginal)
        at = "" if machine.concurrency is None else f" at {machine.concurrency} calls at a time"
        yield (
            f"  machine: {format_usd(machine.nano_usd_per_hour)} USD per hour, "
            f"{machine.input_tokens_per_s} input and {machine.output_tokens_per_s} output tokens "
            f"per second{at}, at work {machine.utilization:.2%} of the time"
        )
    since, until = price.effective_from or "always", price.effective_until or "further notice"
    yield f"  valid from {since} until {until}; last checked {price.checked or 'unknown'}"
    yield f"  source: {price.source}"


def _schedule_lines(title: str, schedule: Schedule) -> Iterator[str]:
    yield f"  {title}: {_brief(schedule.rates)}"
    for tier in schedule.tiers:
        yield f"    prompts above {tier.above_input_tokens} tokens: {_brief(tier.rates)}"


def _all_rates(price: Price) -> str:
    """On one line, so that two prices which differ look different."""
    schedules = (("", price.standard), ("in batches ", price.batch))
    return "; ".join(
        f"{when}{above}{_brief(rates)}"
        for when, schedule in schedules
        if schedule is not None
        for above, rates in (
            ("", schedule.rates),
            *((f"above {t.above_input_tokens} tokens ", t.rates) for t in schedule.tiers),
        )
    )


def _brief(rates: Rates) -> str:
    named = ((kind.replace("_", " "), getattr(rates, kind)) for kind in KINDS)
    return ", ".join(f"{name} {format_usd(rate)}" for name, rate in named if rate is not None)


def _show(rate: int | None) -> str:
    return "" if rate is None else format_usd(rate)


def _as_json(price: Price, book: PriceBook, day: date) -> dict[str, Any]:
    """Money as integers: nano-dollars per million tokens."""

    def schedule(chosen: Schedule | None) -> dict[str, Any] | None:
        if chosen is None:
            return None
        own = {kind: getattr(chosen.rates, kind) for kind in KINDS}
        tiers = [
            {"above_input_tokens": tier.above_input_tokens}
            | {kind: getattr(tier.rates, kind) for kind in KINDS}
            for tier in chosen.tiers
        ]
        return own | {"tiers": tiers}

    return {
        "id": price.id,
        "provider": price.provider,
        "model": price.model,
        "state": price.state(day, book.stale_after_days),
        "nano_usd_per_mtok": schedule(price.standard),
        "batch_nano_usd_per_mtok": schedule(price.batch),
        "marginal_nano_usd_per_mtok": schedule(price.marginal),
        "effective_from": price.effective_from and price.effective_from.isoformat(),
        "effective_until": price.effective_until and price.effective_until.isoformat(),
        "checked": price.checked and price.checked.isoformat(),
        "source": price.source,
        "is_own": price.provider == LOCAL,
    }


def _group() -> None:
    """Prices of models: built in, of files, of own machines. Nothing is fetched, ever."""


prices = typer.Typer(cls=PlainGroup, rich_markup_mode=None, add_completion=False)
prices.callback()(_group)
for _name, _command in (
    ("list", list_),
    ("show", show),
    ("check", check),
    ("measure", measure),
):
    prices.command(_name, cls=PlainCommand)(_command)
