"""Budgets never overshoot: whatever is held, spent, dropped and read again in any order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes.fake_backend import FakeBackend
from fakes.served_app import FixedMetrics
from fakes.usage import make_row, open_database
from headrace.core.budgets import Budget
from headrace.core.config import ServerConfig
from headrace.core.errors import BudgetExceeded
from headrace.economics.accounts import Accounts
from headrace.economics.budgets import BudgetHold, Budgets, Spender
from headrace.economics.ledger import UsageLedger
from headrace.economics.price_files import read_price_file
from headrace.economics.prices import PriceBook
from headrace.economics.usage_row import UsageRow
from headrace.server.app import HeadraceApp
from headrace.server.services import Services

TODAY = date(2026, 11, 22)
TENANTS, MODELS, TAGS = ("a", "b"), ("m", "n"), ((), ("x",), ("x", "y"))
BUDGETS = [
    Budget(scope="all", name="", period="total", stop_nano_usd=5_000),
    Budget(scope="tenant", name="a", period="day", stop_nano_usd=2_000),
    Budget(scope="tenant", name="b", period="week", stop_nano_usd=1_000, warn_nano_usd=500),
    Budget(scope="model", name="m", period="month", stop_nano_usd=3_000),
    Budget(scope="tag", name="x", period="month", stop_nano_usd=1_500),
    Budget(scope="tag", name="y", period="month", warn_nano_usd=10),
]


class Written:
    """A ledger: rows of spenders, added up as a database would."""

    def __init__(self) -> None:
        self.rows: list[tuple[Spender, int]] = []
        self.lock = threading.Lock()

    def spent_since(self, budget: Budget, begin: date) -> int:
        with self.lock:
            return sum(
                cost
                for spender, cost in self.rows
                if spender.is_in(budget) and spender.day >= begin
            )


def row_of(number: int, spender: Spender, cost: int) -> UsageRow:
    tags = '["' + '", "'.join(spender.tags) + '"]' if spender.tags else None
    return make_row(
        number,
        row_id=f"{number:06}",
        tenant=spender.tenant,
        key_id=spender.key_id,
        model=spender.model,
        tags=tags,
        cost_nano_usd=cost,
    )


spenders = st.builds(
    Spender,
    st.sampled_from(TENANTS),
    st.none(),
    st.sampled_from(MODELS),
    st.sampled_from(TAGS),
    st.just(TODAY),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), spenders, st.integers(0, 1_500)),
        st.tuples(st.just("settle"), st.integers(0, 20), st.integers(0, 100)),
        st.tuples(st.just("release"), st.integers(0, 20), st.none()),
        st.tuples(st.just("write"), st.integers(0, 20), st.none()),
        st.tuples(st.just("refresh"), st.none(), st.none()),
        st.tuples(st.just("renew"), st.none(), st.none()),
    ),
    max_size=60,
)


@given(steps)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_order_of_events_overshoots(events: list[tuple[str, object, object]]) -> None:
    ledger, running, waiting = Written(), [], []
    budgets = Budgets(ledger.spent_since)
    budgets.replace(BUDGETS, TODAY)
    spent: list[tuple[Spender, int]] = []
    number = 0
    for kind, first, second in events:
        if kind == "reserve":
            assert isinstance(first, Spender)
            try:
                hold = budgets.reserve(first, int(second))  # type: ignore[call-overload]
            except BudgetExceeded:
                continue
            assert hold is not None
            running.append((first, hold))
        elif kind in ("settle", "release") and running:
            spender, hold = running.pop(int(first) % len(running))  # type: ignore[call-overload]
            if kind == "release":
                budgets.release(hold)
                continue
            cost = hold.nano_usd * int(second) // 100  # type: ignore[call-overload]
            number += 1
            row = row_of(number, spender, cost)
            budgets.settle([hold], row)
            spent.append((spender, cost))
            waiting.append((spender, row))
        elif kind == "write" and waiting:
            spender, row = waiting.pop(int(first) % len(waiting))  # type: ignore[call-overload]
            ledger.rows.append((spender, row.cost_nano_usd or 0))
            budgets.note_written([row])
        elif kind == "refresh":
            budgets.refresh(TODAY)
        elif kind == "renew":
            budgets.replace(list(reversed(BUDGETS)), TODAY)
        for budget in BUDGETS:
            exact = sum(cost for spender, cost in spent if spender.is_in(budget))
            held = sum(hold.nano_usd for spender, hold in running if spender.is_in(budget))
            assert budgets.spent(budget.id, TODAY) == exact
            assert budgets.held(budget.id, TODAY) == held
            if budget.stop_nano_usd is not None:
                assert exact + held <= budget.stop_nano_usd


def test_threads_cannot_spend_the_same_money() -> None:
    """Rows are written, and the ledger read again, while others hold and spend."""
    ledger = Written()
    budget = Budget(scope="tenant", name="a", period="total", stop_nano_usd=100_000)
    budgets = Budgets(ledger.spent_since)
    budgets.replace([budget], TODAY)
    spender = Spender("a", None, "m", (), TODAY)
    most_seen, num_done, stop = [0], [0], threading.Event()
    count = threading.Lock()

    def spend(thread: int) -> None:
        for turn in range(200):
            try:
                hold = budgets.reserve(spender, 300)
            except BudgetExceeded:
                continue
            assert hold is not None
            row = row_of(thread * 1000 + turn, spender, 299)
            budgets.settle([hold], row)
            with ledger.lock:
                ledger.rows.append((spender, 299))
            budgets.note_written([row])
            with count:
                num_done[0] += 1

    def watch() -> None:
        while not stop.is_set():
            budgets.refresh(TODAY)
            with ledger.lock:
                most_seen[0] = max(most_seen[0], sum(cost for _, cost in ledger.rows))

    watcher = threading.Thread(target=watch)
    threads = [threading.Thread(target=spend, args=(number,)) for number in range(8)]
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    watcher.join()
    assert most_seen[0] <= 100_000
    budgets.refresh(TODAY)
    assert budgets.spent(budget.id, TODAY) == 299 * num_done[0] <= 100_000
    assert budgets.held(budget.id, TODAY) == 0
    assert num_done[0] > 0
    # What is left can be spent to the last hold that fits.
    number = 10**5
    while budgets.spent(budget.id, TODAY) + 300 <= 100_000:
        hold, number = budgets.reserve(spender, 300), number + 1
        assert hold is not None
        budgets.settle([hold], row_of(number, spender, 299))
    with pytest.raises(BudgetExceeded):
        budgets.reserve(spender, 300)


# 10 nano-dollars a token, prompt and answer: 2 + 5 tokens are 70, and 2 + 8 are held.
PRICES = "prices: [{model: tiny, input_per_1m: 0.01, output_per_1m: 0.01}]"


Served = tuple[httpx.AsyncClient, Budgets, Callable[[], Budgets]]


@contextmanager
def priced_app(folder: Path, stop_nano_usd: int) -> Iterator[Served]:
    file = folder / "prices.yaml"
    file.write_text(PRICES)
    database = open_database(folder)
    ledger = UsageLedger(database)
    budgets = Budgets(ledger.spent_since)
    budget = Budget(
        scope="tenant",
        name="default",
        period="total",
        stop_nano_usd=stop_nano_usd,
        warn_nano_usd=stop_nano_usd // 2,
    )
    budgets.replace([budget], TODAY)

    class AtTheEnd:
        def __init__(self) -> None:
            self.rows: list[UsageRow] = []

        def append(self, row: UsageRow) -> None:
            self.rows.append(row)

    kept = AtTheEnd()
    accounts = Accounts(
        ledger=kept, prices=PriceBook([read_price_file(file).prices]), budgets=budgets
    )
    services = Services(FakeBackend(), ServerConfig(), FixedMetrics(), "9.9", accounts=accounts)
    app = HeadraceApp(services)
    transport = httpx.ASGITransport(app=app)
    client = httpx.AsyncClient(transport=transport, base_url="http://x", timeout=60)

    def restart() -> Budgets:
        """Another process: all it knows is the ledger."""
        ledger.append(kept.rows)
        again = Budgets(ledger.spent_since)
        again.replace([budget], TODAY)
        return again

    yield client, budgets, restart
    database.close()


async def test_a_thousand_requests_at_once(tmp_path: Path) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    with priced_app(tmp_path, stop_nano_usd=20_000) as (client, budgets, restart):
        async with client:
            answers = await asyncio.gather(
                *(client.post("/v1/chat/completions", json=body) for _ in range(1000))
            )
        statuses = [answer.status_code for answer in answers]
        num_served = statuses.count(200)
        spent = budgets.spent("tenant:default:total", TODAY)
        again = restart()
    assert set(statuses) == {200, 429}
    assert spent == 70 * num_served <= 20_000
    assert num_served >= 200
    assert again.spent("tenant:default:total", TODAY) == spent
    assert budgets.held("tenant:default:total", TODAY) == 0
    refused = next(answer for answer in answers if answer.status_code == 429)
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    assert "The budget tenant:default:total of 0.00002 USD has" in error["message"]
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers
    warned = [answer.headers.get("x-headrace-budget-warning") for answer in answers]
    assert any(text and "the warning is at 0.00001" in text for text in warned)


def test_a_hold_is_given_back_once() -> None:
    budgets = Budgets(lambda _budget, _begin: 0)
    budget = Budget(scope="all", name="", period="day", stop_nano_usd=10)
    budgets.replace([budget], TODAY)
    spender = Spender("a", None, "m", (), TODAY)
    hold = budgets.reserve(spender, 10)
    assert isinstance(hold, BudgetHold)
    with pytest.raises(BudgetExceeded, match="begins anew on 2026-11-23"):
        budgets.reserve(spender, 1)
    budgets.release(hold)
    assert budgets.reserve(spender, 10) is not None
