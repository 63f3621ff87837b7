"""What a call costs: whose prices, and which of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fakes.fake_backend import FakeBackend
from headrace.core.backend import ModelInfo
from headrace.core.request import GenerateRequest
from headrace.core.stores import ANONYMOUS
from headrace.core.usage import Usage
from headrace.economics.accounts import Accounts
from headrace.economics.call_costs import CallCosts
from headrace.economics.call_progress import Attempt, CallFacts, CallProgress
from headrace.economics.call_rows import CallOutcome, make_rows
from headrace.economics.prices import LOCAL, Match, Price, PriceBook, Rates, Schedule

USED = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
ACCEPTED_AT_S = 1_790_000_000.0


def schedule(usd: int) -> Schedule:
    rate = usd * 10**9
    return Schedule(Rates(input=rate, output=rate))


def costs_of(provider: str, is_background: bool, usages: Sequence[Usage] = (USED,)) -> CallCosts:
    """Of a call to a model that costs 10 dollars per million tokens, and 4 in a batch."""
    price = Price(
        provider=provider,
        model="tiny",
        match=Match("equals", "tiny"),
        standard=schedule(10),
        batch=schedule(4),
    )
    accounts = Accounts(prices=PriceBook([[price]]))
    facts = CallFacts("r", "/v1/completions", ANONYMOUS, is_background=is_background)
    request = GenerateRequest(request_id="r", model="tiny", prompt="hi")
    attempts = [Attempt(request, 1, None, usage, is_finished=True) for usage in usages]
    progress = CallProgress(facts, 5.0, ACCEPTED_AT_S, model="tiny", attempts=attempts)
    info = ModelInfo("tiny", 100, 0, "tiny", provider=provider)
    return CallCosts(progress, accounts, FakeBackend(info=info))


@pytest.mark.parametrize(
    ("provider", "is_background", "usd"),
    [
        (LOCAL, False, 20),
        (LOCAL, True, 8),
        ("openai", False, 20),
        # A line of a batch here is a call there: nobody gives it the price of theirs.
        ("openai", True, 20),
    ],
)
def test_lines_of_batches_have_the_price_of_batches_where_they_are_one(
    provider: str, is_background: bool, usd: int
) -> None:
    costs = costs_of(provider, is_background)
    total = costs.total()
    assert total is not None
    assert total.nano_usd == usd * 10**9
    (row,) = make_rows(costs._progress, costs, CallOutcome(6.0, 200, None, None))
    assert (row.cost_nano_usd, row.provider) == (usd * 10**9, provider)
    assert row.output_rate == usd // 2 * 10**9


def test_a_row_adds_up_its_requests() -> None:
    costs = costs_of(LOCAL, False, [USED, USED])
    outcome = CallOutcome(6.5, 200, None, "summaries")
    (row,) = make_rows(costs._progress, costs, outcome)
    assert (row.input_tokens, row.output_tokens) == (2 * 10**6, 2 * 10**6)
    assert row.estimated_input_tokens == 0
    assert (row.duration_s, row.task, row.usage_source) == (1.5, "summaries", "measured")
    assert row.day == "2026-09-21"
    assert row.is_part is row.attempt is None


def test_without_prices_nothing_is_said_of_costs() -> None:
    costs = costs_of(LOCAL, False)
    costs._accounts.prices = None
    assert costs.total() is None
    (row,) = make_rows(costs._progress, costs, CallOutcome(6.0, 200, None, None))
    assert (row.price_state, row.cost_nano_usd) == (None, None)
