"""PriceBook: what a million tokens of a model cost, on a day.

In: prices from tables, in order of precedence. Out: the price of a provider's model on a day, or
None: a model without a price is unpriced, which is a state and never 0. Money is integer
nano-dollars. Knows no file format and no usage.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

from headrace.core.frozen import frozen

# The provider of models that run here.
LOCAL = "local"

# stale: the price was last checked longer ago than is trusted. none: nothing was computed.
PriceState = Literal["priced", "stale", "unpriced", "none"]
MatchKind = Literal["equals", "starts_with", "ends_with", "contains", "regex", "or", "and"]

NANO_USD = 10**9


@frozen
class Rates:
    """Prices by kind of token; None has no price of its own. Units: nano-dollars per million."""

    input: int | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    output: int | None = None
    reasoning: int | None = None

    def over(self, base: Rates) -> Rates:
        """These, and those of `base` where these say nothing."""
        own = {name: getattr(self, name) for name in KINDS}
        return Rates(
            **{name: getattr(base, name) if own[name] is None else own[name] for name in KINDS}
        )

    def resolved(self) -> Rates:
        """Every kind with the price that it is charged at.

        A kind without a price costs what it is part of: cached and written input as input, one-hour
        writes as writes, reasoning as output.
        """
        write = self.input if self.cache_write is None else self.cache_write
        return Rates(
            input=self.input,
            cached_input=self.input if self.cached_input is None else self.cached_input,
            cache_write=write,
            cache_write_1h=write if self.cache_write_1h is None else self.cache_write_1h,
            output=self.output,
            reasoning=self.output if self.reasoning is None else self.reasoning,
        )


KINDS = tuple(entry.name for entry in fields(Rates))


@frozen
class PriceTier:
    """Rates of requests whose input is longer than `above_input_tokens`: of all their tokens."""

    above_input_tokens: int
    rates: Rates


@frozen
class Schedule:
    """Rates, and those of long prompts, the longest last."""

    rates: Rates
    tiers: tuple[PriceTier, ...] = ()

    def rates_for(self, input_tokens: int) -> Rates:
        """The resolved rates of a request."""
        chosen = self.rates
        for tier in self.tiers:
            if input_tokens > tier.above_input_tokens:
                chosen = tier.rates.over(self.rates)
        return chosen.resolved()


@frozen
class Match:
    """Which names of models a price is for. `or` and `and` have parts, the others a text."""

    kind: MatchKind
    text: str = ""
    parts: tuple[Match, ...] = ()

    def holds(self, model: str) -> bool:
        """Whether the name is one of them."""
        if self.kind == "or":
            return any(part.holds(model) for part in self.parts)
        if self.kind == "and":
            return all(part.holds(model) for part in self.parts)
        if self.kind == "equals":
            return model == self.text
        if self.kind == "starts_with":
            return model.startswith(self.text)
        if self.kind == "ends_with":
            return model.endswith(self.text)
        if self.kind == "contains":
            return self.text in model
        return re.search(self.text, model) is not None

    def num_fixed(self, model: str) -> int:
        """How many signs of a name it says at least; of a regular expression nobody knows."""
        if self.parts:
            return max(part.num_fixed(model) for part in self.parts if part.holds(model))
        return 0 if self.kind == "regex" else len(self.text)


@frozen
class MeasuredMachine:
    """What the price of an own model rests on; shown with it. Units: tokens per second."""

    nano_usd_per_hour: int
    input_tokens_per_s: Decimal
    output_tokens_per_s: Decimal
    utilization: Decimal
    concurrency: Decimal | None = None


@frozen(kw_only=True)
class Price:
    """A model's price from one day until before another; None is no bound.

    `batch` is for work that may wait; without it that costs the same. `marginal` leaves out the
    share of time in which an own machine is idle. `checked`: when somebody last looked.
    """

    provider: str
    model: str
    match: Match
    standard: Schedule
    batch: Schedule | None = None
    marginal: Schedule | None = None
    machine: MeasuredMachine | None = None
    effective_from: date | None = None
    effective_until: date | None = None
    checked: date | None = None
    source: str = ""

    @property
    def id(self) -> str:
        """Names the price in rows and reports."""
        since = "always" if self.effective_from is None else self.effective_from.isoformat()
        return f"{self.provider}/{self.model}@{since}"

    def is_valid(self, day: date) -> bool:
        """Whether it holds on a day."""
        return (self.effective_from is None or self.effective_from <= day) and (
            self.effective_until is None or day < self.effective_until
        )

    def state(self, day: date, stale_after_days: int) -> PriceState:
        """`stale` when the last check is too long ago."""
        if self.checked is None or day - self.checked <= timedelta(days=stale_after_days):
            return "priced"
        return "stale"


class PriceBook:
    """Prices of several tables. The first table that has one of the model on the day is used."""

    def __init__(self, tables: Iterable[Sequence[Price]], stale_after_days: int = 365) -> None:
        self.tables = tuple(tuple(table) for table in tables)
        self.stale_after_days = stale_after_days
        self._found: dict[tuple[str, str, date], Price | None] = {}

    def find(self, provider: str, model: str, day: date) -> Price | None:
        """The price of a model on a day; None: it is unpriced.

        Names given whole go before patterns, and a pattern with a longer text before a shorter
        one; of several dates the latest goes first.
        """
        key = (provider, model, day)
        if key not in self._found:
            if len(self._found) > 10_000:
                self._found.clear()
            self._found[key] = self._search(provider, model, day)
        return self._found[key]

    def _search(self, provider: str, model: str, day: date) -> Price | None:
        for table in self.tables:
            found = [
                price
                for price in table
                if price.provider == provider and price.is_valid(day) and price.match.holds(model)
            ]
            if found:
                return max(found, key=lambda price: _rank(price, model))
        return None


def _rank(price: Price, model: str) -> tuple[bool, int, date]:
    parts = price.match.parts if price.match.kind == "or" else (price.match,)
    is_named = any(part.kind == "equals" and part.text == model for part in parts)
    return is_named, price.match.num_fixed(model), price.effective_from or date.min


def to_nano_usd(usd: Decimal) -> int:
    """Dollars to nano-dollars, half of one up."""
    return int((usd * NANO_USD).quantize(Decimal(1), ROUND_HALF_UP))


def scale_rates(rates: Rates, factor: Decimal) -> Rates:
    """Rates times a factor, each rounded to a nano-dollar per million tokens."""
    scaled: dict[str, int | None] = {}
    for name in KINDS:
        value = getattr(rates, name)
        exact = None if value is None else (value * factor).quantize(Decimal(1), ROUND_HALF_UP)
        scaled[name] = None if exact is None else int(exact)
    return Rates(**scaled)


def scale_schedule(schedule: Schedule, factor: Decimal) -> Schedule:
    """A schedule times a factor."""
    return Schedule(
        scale_rates(schedule.rates, factor),
        tuple(replace(tier, rates=scale_rates(tier.rates, factor)) for tier in schedule.tiers),
    )


def format_usd(nano_usd: int) -> str:
    """Nano-dollars as dollars, exactly, with at least two digits: `0.0000042`, `12.50`."""
    sign, nano_usd = ("-" if nano_usd < 0 else ""), abs(nano_usd)
    whole, rest = divmod(nano_usd, NANO_USD)
    digits = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{digits}"
