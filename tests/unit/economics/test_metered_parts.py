"""What a call owes to several backends, and the money that was held for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from fakes.fake_backend import FakeBackend
from fakes.fake_clock import FakeClock
from headrace.core.backend import ModelInfo
from headrace.core.budgets import Budget
from headrace.core.passing_stream import PassingStream
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.routing import Route, RouteAttempt, Routed
from headrace.core.stores import ANONYMOUS
from headrace.core.usage import Usage
from headrace.economics.accounts import Accounts
from headrace.economics.budgets import BudgetHold, Budgets
from headrace.economics.call_progress import CallFacts
from headrace.economics.metered import Metered
from headrace.economics.prices import LOCAL, Match, Price, PriceBook, Rates, Schedule
from headrace.economics.usage_row import UsageRow

USED = Usage(input_tokens=3, output_tokens=5)
TODAY = date(1970, 1, 1)
ALL = Budget(scope="all", name="", period="total", stop_nano_usd=10**12)


class OfTwo(PassingStream, Routed):
    """An answer of the dear tier, after the cheap one's would not do."""

    @property
    def route(self) -> Route:
        attempts = (
            RouteAttempt("cheap", "a", "tiny", LOCAL, "escalated", USED),
            RouteAttempt("dear", "b", "tiny", LOCAL, "answered", USED),
        )
        return Route("dear", "default", attempts=attempts)


class TwoTiers(FakeBackend):
    async def generate(self, request: GenerateRequest) -> OfTwo:  # type: ignore[override]
        return OfTwo(await super().generate(request))


class Watched(Budgets):
    """Notes what is left of the budget in the eyes of others, each time that it changes."""

    def settle(self, holds: Sequence[BudgetHold], row: UsageRow) -> None:
        super().settle(holds, row)
        self.seen.append(self.spent(ALL.id, TODAY) + self.held(ALL.id, TODAY))

    seen: list[int]


async def test_what_is_held_is_not_free_before_every_part_is_spent() -> None:
    rate = 10**9
    price = Price(
        provider=LOCAL,
        model="tiny",
        match=Match("equals", "tiny"),
        standard=Schedule(Rates(input=rate, output=rate)),
    )
    budgets = Watched(lambda budget, begin: 0)
    budgets.seen = []
    budgets.replace([ALL], TODAY)
    accounts = Accounts(prices=PriceBook([[price]]), budgets=budgets)
    backend = TwoTiers(info=ModelInfo("tiny", 100, 0, "tiny", provider=LOCAL))
    call = Metered(backend, CallFacts("r", "/v1/completions", ANONYMOUS), accounts, FakeClock())
    call.begin()
    request = GenerateRequest(
        request_id="r", model="tiny", prompt="hi", sampling=SamplingParams(max_tokens=50)
    )
    async for _ in await call.generate(request):
        pass
    assert budgets.held(ALL.id, TODAY) > 0
    call.close(200, has_client_left=False)
    cost = 2 * (3 + 5) * rate // 10**6
    assert budgets.spent(ALL.id, TODAY) == budgets.seen[-1] == cost
    assert min(budgets.seen) == cost and len(budgets.seen) == 2
