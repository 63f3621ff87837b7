"""Budgets: which ones pay for a call, when a period ends, what is refused for want of a price."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from fakes.fake_backend import FakeBackend
from fakes.usage import NOON_MS, make_row, open_database
from headrace.core.backend import ModelText
from headrace.core.budgets import Budget
from headrace.core.errors import (
    BudgetExceeded,
    CapacityError,
    StoreError,
    UnsupportedParameter,
)
from headrace.core.message import Message
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.economics.budgets import Budgets, Spender
from headrace.economics.ledger import UsageLedger
from headrace.economics.most_cost import most_it_costs
from headrace.economics.prices import Match, Price, PriceTier, Rates, Schedule

SUNDAY = date(2026, 11, 22)
CALL = Spender("acme", "k1", "m", ("x", "y"), SUNDAY)


def budget(scope: str, name: str = "", period: str = "month", stop: int | None = 100) -> Budget:
    return Budget(scope=scope, name=name, period=period, stop_nano_usd=stop)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("owner", "pays"),
    [
        (budget("all"), True),
        (budget("tenant", "acme"), True),
        (budget("tenant", "k1"), False),
        (budget("key", "k1"), True),
        (budget("model", "n"), False),
        (budget("tag", "y"), True),
        (budget("tag", "z"), False),
    ],
    ids=lambda value: value.id if isinstance(value, Budget) else "",
)
def test_who_pays(owner: Budget, pays: bool) -> None:
    assert CALL.is_in(owner) is pays


@pytest.mark.parametrize(
    ("period", "begin", "end"),
    [
        ("day", date(2026, 11, 22), date(2026, 11, 23)),
        ("week", date(2026, 11, 16), date(2026, 11, 23)),
        ("month", date(2026, 11, 1), date(2026, 12, 1)),
        ("total", date.min, None),
    ],
)
def test_periods(period: str, begin: date, end: date | None) -> None:
    owner = budget("all", period=period)
    assert (owner.begins(SUNDAY), owner.ends(SUNDAY)) == (begin, end)


def test_a_new_period_begins_with_nothing_spent() -> None:
    budgets = Budgets(lambda _budget, _begin: 100)
    budgets.replace([budget("all", period="day")], SUNDAY)
    with pytest.raises(BudgetExceeded):
        budgets.reserve(CALL, 1)
    monday = Spender("acme", None, "m", (), date(2026, 11, 23))
    assert budgets.reserve(monday, 100) is not None


def test_one_budget_that_refuses_leaves_the_others_as_they_are() -> None:
    budgets = Budgets(lambda owner, _begin: 99 if owner.scope == "tag" else 0)
    owners = [budget("all"), budget("tenant", "acme"), budget("tag", "x")]
    budgets.replace(owners, SUNDAY)
    with pytest.raises(BudgetExceeded, match="tag:x:month") as refused:
        budgets.reserve(CALL, 2)
    assert refused.value.budget == "tag:x:month"
    assert [budgets.held(owner.id, SUNDAY) for owner in owners] == [0, 0, 0]


def test_a_model_without_a_price_is_refused_where_a_limit_applies() -> None:
    budgets = Budgets(lambda _budget, _begin: 0)
    budgets.replace([budget("tenant", "acme")], SUNDAY)
    with pytest.raises(BudgetExceeded, match="has no price"):
        budgets.reserve(CALL, None)
    assert budgets.reserve(Spender("other", None, "m", (), SUNDAY), None) is None
    warns = Budget(scope="all", name="", period="day", warn_nano_usd=0)
    budgets.replace([warns], SUNDAY)
    hold = budgets.reserve(CALL, None)
    assert hold is not None
    assert "the warning is at 0.00" in hold.warnings[0]


def test_what_cannot_be_recorded_is_not_served() -> None:
    budgets = Budgets(lambda _budget, _begin: 0, can_record=lambda: False)
    budgets.replace([budget("all")], SUNDAY)
    with pytest.raises(CapacityError, match="ledger"):
        budgets.reserve(CALL, 1)


def test_a_ledger_that_cannot_be_read_changes_nothing() -> None:
    def fail(_budget: Budget, _begin: date) -> int:
        if is_broken:
            raise StoreError("db", "gone.")
        return 40

    is_broken = False
    budgets = Budgets(fail)
    budgets.replace([budget("all")], SUNDAY)
    is_broken = True
    with pytest.raises(StoreError):
        budgets.replace([budget("all", stop=1), budget("tag", "x")], SUNDAY)
    with pytest.raises(StoreError):
        budgets.refresh(SUNDAY)
    assert budgets.reserve(CALL, 60) is not None
    assert budgets.spent("all:month", SUNDAY) == 40


def test_what_was_spent_is_read_from_the_ledger(tmp_path: Path) -> None:
    day_ms = 86_400_000
    database = open_database(tmp_path)
    ledger = UsageLedger(database)
    ledger.append(
        [
            make_row(0, cost_nano_usd=1, tags='["x"]', key_id="k1", model="m"),
            make_row(1, cost_nano_usd=10, tags='["xx", "x%"]', model="n"),
            make_row(-NOON_MS % day_ms - day_ms, cost_nano_usd=100, tenant="other"),
            make_row(-30 * day_ms, cost_nano_usd=1000),
            make_row(2, cost_nano_usd=None),
            make_row(3, cost_nano_usd=10_000, tags='["X"]', tenant="other", model="o"),
        ]
    )
    found = {
        owner.id: ledger.spent_since(owner, owner.begins(SUNDAY))
        for owner in (
            budget("all", period="total"),
            budget("all", period="month"),
            budget("all", period="day"),
            budget("tenant", "acme"),
            budget("key", "k1"),
            budget("model", "n"),
            budget("tag", "x"),
            budget("tag", "X"),
            budget("tag", "x%"),
            budget("tag", "_"),
        )
    }
    database.close()
    assert found == {
        "all:total": 11_111,
        "all:month": 10_111,
        "all:day": 10_111,
        "tenant:acme:month": 11,
        "key:k1:month": 1,
        "model:n:month": 10,
        "tag:x:month": 1,
        "tag:X:month": 10_000,
        "tag:x%:month": 10,
        "tag:_:month": 0,
    }


def request(**changes: object) -> GenerateRequest:
    values = {"request_id": "r", "model": "tiny", "prompt": "abc"} | changes
    return GenerateRequest(**values)  # type: ignore[arg-type]


def priced(**rates: int) -> Price:
    schedule = Schedule(Rates(**rates), (PriceTier(10, Rates(input=3_000_000)),))
    return Price(provider="local", model="tiny", match=Match("equals", "tiny"), standard=schedule)


async def test_the_most_that_a_request_costs() -> None:
    backend = FakeBackend()
    (info,) = backend.models()
    price = priced(input=2_000_000, output=5_000_000)
    sampling = SamplingParams(max_tokens=7, n=2)

    async def most(changes: dict[str, object], chosen: Price | None = price) -> int | None:
        return await most_it_costs(backend, request(**changes), chosen, info)

    # Three bytes are three tokens of the fake; the dearest of the tiers counts.
    assert await most({"sampling": sampling}) == 3 * 3 + 2 * 7 * 5
    assert await most({"default_max_tokens": 4}) == 3 * 3 + 4 * 5
    assert await most({}) == 3 * 3 + (info.max_model_len - 3) * 5
    messages = (Message(role="user", content="hi"),)
    assert await most({"prompt": None, "messages": messages, "sampling": sampling}) == 6 + 70
    assert await most({}, None) is None
    assert await most({"sampling": sampling}, priced(input=2_000_000)) is None
    assert await most({"pooling": "mean"}, priced(input=2_000_000)) == 9


@pytest.mark.parametrize("kept", [-1, 1])
async def test_tokens_that_are_cut_off_take_nothing_from_the_length_of_the_answer(
    kept: int,
) -> None:
    backend = FakeBackend()
    (info,) = backend.models()
    sampling, long = SamplingParams(max_tokens=7, n=2), (1,) * info.max_model_len
    asked = request(prompt=long, truncate_prompt_tokens=kept, sampling=sampling)
    price = Price(
        provider="local",
        model="tiny",
        match=Match("equals", "tiny"),
        standard=Schedule(Rates(input=0, output=5_000_000)),
    )
    assert await most_it_costs(backend, asked, price, info) == 2 * 7 * 5


async def test_bytes_of_a_prompt_take_nothing_from_the_length_of_its_answer() -> None:
    """Where nobody here counts tokens, the prompt may have few of them."""

    class Elsewhere(FakeBackend):
        def text(self, model: str) -> ModelText:
            raise UnsupportedParameter("model", "its tokens are counted elsewhere.")

    backend = Elsewhere()
    (info,) = backend.models()
    asked = request(prompt="x" * info.max_model_len, suffix="y" * 10)
    price = Price(
        provider="far",
        model="tiny",
        match=Match("equals", "tiny"),
        standard=Schedule(Rates(input=1_000_000, output=5_000_000)),
    )
    length = info.max_model_len
    assert await most_it_costs(backend, asked, price, info) == length + 10 + 64 + 5 * length
