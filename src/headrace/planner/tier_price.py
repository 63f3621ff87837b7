"""What a call costs on a tier: price of the book, or of an own machine at its measured speed.

In: tier, profile, price book, day. Out: a Price, and the cost of a day of calls in whole
nano-dollars, rounded once. A tier without a price stays without: its cost is None, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from fractions import Fraction

from headrace.core.frozen import frozen
from headrace.core.usage import Usage
from headrace.economics.cost import price_call
from headrace.economics.machine_price import price_machine
from headrace.economics.prices import MeasuredMachine, Price, PriceBook, to_nano_usd
from headrace.planner.profile import Profile
from headrace.planner.workload import DAY_S, Tier

# A prefix that was read within so long is still cached at providers. Source: the default of
# Anthropic's cache, five minutes; OpenAI names five to ten.
CACHE_LIFE_S = 300


@frozen
class TierPrice:
    """A tier's prices; `off_peak` is an own machine's for work that waits for its idle hours."""

    tier: Tier
    price: Price
    off_peak: Price | None
    day: date
    stale_after_days: int

    @property
    def is_own(self) -> bool:
        return self.price.machine is not None

    @property
    def has_batch(self) -> bool:
        return self.price.batch is not None or self.off_peak is not None

    def call_nano_usd(self, usage: Usage, is_batch: bool = False) -> int | None:
        """One call."""
        price = self.off_peak if is_batch and self.off_peak is not None else self.price
        cost = price_call([usage], price, self.day, self.stale_after_days, is_batch)
        return cost.nano_usd

    def day_nano_usd(
        self, usages: Sequence[Usage], volume: int, is_batch: bool = False
    ) -> int | None:
        """A day of calls like these: their mean times the volume."""
        total = 0
        for usage in usages:
            cost = self.call_nano_usd(usage, is_batch)
            if cost is None:
                return None
            total += cost
        return round(Fraction(total * volume, len(usages)))


def price_tier(tier: Tier, profile: Profile, book: PriceBook, day: date) -> TierPrice | None:
    """None: it has none, or an own machine was not measured."""
    if tier.usd_per_hour is None:
        price = book.find(tier.provider, tier.price_model, day)
        if price is None:
            return None
        return TierPrice(tier, price, None, day, book.stale_after_days)
    own = _price_own(tier, profile, tier.utilization)
    if own is None:
        return None
    off_peak = None
    if tier.off_peak_utilization is not None:
        off_peak = _price_own(tier, profile, tier.off_peak_utilization)
    return TierPrice(tier, own, off_peak, day, book.stale_after_days)


def _price_own(tier: Tier, profile: Profile, utilization: Decimal) -> Price | None:
    work = profile.work(tier)
    if work is None or tier.usd_per_hour is None:
        return None
    machine = MeasuredMachine(
        nano_usd_per_hour=to_nano_usd(tier.usd_per_hour),
        input_tokens_per_s=_decimal(work.input_tokens_per_s),
        output_tokens_per_s=_decimal(work.output_tokens_per_s),
        utilization=utilization,
        concurrency=_decimal(work.concurrency),
    )
    return price_machine(machine, tier.model, source=f"profile, {work.num_calls} calls")


def _decimal(value: float) -> Decimal:
    return Decimal(f"{max(value, 0.001):.3f}")


def with_cached_prefix(
    usages: Sequence[Usage], prefix_tokens: int, price: TierPrice, volume: int
) -> list[Usage]:
    """The same calls with their common beginning read from a cache.

    Now and then it is written again: when no call came for the life of the cache, at random
    arrivals. The share of such calls is spread over all. Own machines keep it for nothing.
    """
    gap_s = DAY_S / volume
    written = math.exp(-CACHE_LIFE_S / gap_s)
    num_written = 0 if price.is_own else round(prefix_tokens * written)
    changed = []
    for usage in usages:
        prefix = min(prefix_tokens, usage.input_tokens)
        wrote = min(prefix, num_written)
        changed.append(replace(usage, cached_input_tokens=prefix - wrote, cache_write_tokens=wrote))
    return changed
