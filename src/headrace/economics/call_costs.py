"""CallCosts: who is owed what for a call, as far as it has come.

In: the progress of a call, the price book. Out: parts, their costs, the sum for the caller's eyes.
A price is looked up when somebody asks: the book may be replaced while a call runs.
"""

from __future__ import annotations

from headrace.core.backend import Backend
from headrace.core.receipt import CostReceipt
from headrace.economics.accounts import Accounts
from headrace.economics.call_parts import CallPart, add_costs, parts_of
from headrace.economics.call_progress import CallProgress
from headrace.economics.cost import Cost, price_call
from headrace.economics.prices import LOCAL, Price, PriceBook, format_usd


class CallCosts:
    """Of one call. Everything is None where no costs are kept."""

    def __init__(self, progress: CallProgress, accounts: Accounts, backend: Backend) -> None:
        self._progress, self._accounts, self._backend = progress, accounts, backend

    def parts(self) -> list[CallPart]:
        """Who is owed something for the call, the one that answered first."""
        progress = self._progress
        routes = progress.routes()
        parts = parts_of(routes)
        if parts:
            return parts
        model = progress.model or ""
        if routes:
            # Nobody was asked: the answer is an old one, and costs nothing.
            return [CallPart(model, self.provider(), routes[0].tier)]
        usages = [attempt.billed for attempt in progress.attempts]
        return [CallPart(model, self.provider(), usages=usages)]

    def price(self, part: CallPart) -> Cost | None:
        """What a part costs."""
        prices = self._accounts.prices
        return None if prices is None else self._price(part, prices)

    def total(self) -> Cost | None:
        """What the call costs."""
        prices = self._accounts.prices
        if prices is None:
            return None
        return add_costs([self._price(part, prices) for part in self.parts()])

    def find_price(self, prices: PriceBook, provider: str, model: str) -> Price | None:
        """The model's own price; an adapter without one costs what its model does."""
        day = self._progress.day
        found = prices.find(provider, model, day)
        if found is not None:
            return found
        parents = (info.parent for info in self._backend.models() if info.name == model)
        parent = next(parents, None)
        return None if parent is None else prices.find(provider, parent, day)

    def provider(self) -> str:
        """Whose model serves the call."""
        infos = self._backend.models()
        names = (info.provider for info in infos if info.name == self._progress.model)
        return next(names, LOCAL)

    def _price(self, part: CallPart, prices: PriceBook) -> Cost:
        day = self._progress.day
        price = self.find_price(prices, part.provider, part.model)
        # Elsewhere a line of a batch is a call like any other.
        is_batch = self._progress.facts.is_background and part.provider == LOCAL
        return price_call(part.usages, price, day, prices.stale_after_days, is_batch=is_batch)


def receipt_of(cost: Cost) -> CostReceipt:
    """The cost for the caller's eyes."""
    marginal = cost.marginal_nano_usd
    return CostReceipt(
        price_state=cost.state,
        usd=None if cost.nano_usd is None else format_usd(cost.nano_usd),
        marginal_usd=None if marginal is None else format_usd(marginal),
        price_id=None if cost.price is None else cost.price.id,
    )


def cost_headers(cost: Cost) -> dict[str, str]:
    """The cost as headers of an answer."""
    headers: dict[str, str] = {"x-headrace-price-state": cost.state}
    if cost.nano_usd is not None:
        headers["x-headrace-response-cost"] = format_usd(cost.nano_usd)
    return headers
