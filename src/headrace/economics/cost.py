"""What tokens cost: usage times rates, in whole nano-dollars.

In: usage and the price that held when it was asked for. Out: a Cost, rounded once, half a
nano-dollar up. Knows neither callers nor tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from headrace.core.frozen import frozen
from headrace.core.usage import Usage
from headrace.economics.prices import Price, PriceState, Rates

MTOK = 10**6
NO_RATES = Rates()


@frozen(kw_only=True)
class Cost:
    """Of one call. None: it is not known. Units: nano-dollars; `rates` per million tokens.

    `marginal_nano_usd` is without the idle time of an own machine, and else the same.
    """

    state: PriceState
    nano_usd: int | None
    marginal_nano_usd: int | None
    price: Price | None = None
    rates: Rates = NO_RATES


NOTHING = Cost(state="none", nano_usd=0, marginal_nano_usd=0)
UNPRICED = Cost(state="unpriced", nano_usd=None, marginal_nano_usd=None)


def quantities(usage: Usage) -> Rates:
    """Tokens by the kind they are charged as: each token is in one of them."""
    written = usage.cache_write_tokens
    apart = usage.cached_input_tokens + written + usage.cache_write_1h_tokens
    return Rates(
        input=max(0, usage.input_tokens - apart),
        cached_input=usage.cached_input_tokens,
        cache_write=written,
        cache_write_1h=usage.cache_write_1h_tokens,
        output=max(0, usage.output_tokens - usage.reasoning_tokens),
        reasoning=usage.reasoning_tokens,
    )


def charge(usage: Usage, rates: Rates) -> int | None:
    """Nano-dollars of a usage at resolved rates; None where a kind that was used has none."""
    counts, total = quantities(usage), 0
    for count, rate in zip(_values(counts), _values(rates), strict=True):
        if not count:
            continue
        if rate is None:
            return None
        total += count * rate
    return round_mtok(total)


def round_mtok(nano_usd_mtok: int) -> int:
    """Tokens times rates to nano-dollars: half of one up."""
    return (nano_usd_mtok + MTOK // 2) // MTOK


def price_call(
    usages: Sequence[Usage],
    price: Price | None,
    day: date,
    stale_after_days: int,
    is_batch: bool = False,
) -> Cost:
    """The cost of a call: of its requests together, at the rates of the longest prompt."""
    if not usages:
        return NOTHING
    if price is None:
        return UNPRICED
    longest = max(usage.input_tokens for usage in usages)
    total = sum(usages, Usage())
    schedule = price.batch if is_batch and price.batch is not None else price.standard
    rates = schedule.rates_for(longest)
    nano_usd = charge(total, rates)
    if nano_usd is None:
        return UNPRICED
    marginal: int | None = nano_usd
    if price.marginal is not None:
        marginal = charge(total, price.marginal.rates_for(longest))
    return Cost(
        state=price.state(day, stale_after_days),
        nano_usd=nano_usd,
        marginal_nano_usd=marginal,
        price=price,
        rates=rates,
    )


def _values(rates: Rates) -> tuple[int | None, ...]:
    return (
        *(rates.input, rates.cached_input, rates.cache_write, rates.cache_write_1h),
        *(rates.output, rates.reasoning),
    )
