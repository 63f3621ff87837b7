"""Every call has its cost: in headers and receipts, and in its row, however it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_disconnect import raw_post, read_until, wait_at

from fakes.fake_backend import FakeBackend
from fakes.served_app import RunningServer, run_server
from fakes.usage import Ledger, eventually, open_ledger
from headrace.core.budgets import Budget
from headrace.core.stores import ApiKey
from headrace.economics.accounts import Accounts
from headrace.economics.budgets import Budgets
from headrace.economics.price_files import read_price_file
from headrace.economics.prices import PriceBook
from headrace.store.key_ring import StoredKey, StoredKeys, hash_secret

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
# 0.36 USD an hour, at work a quarter of the time: 100 nano-dollars a token of the prompt and 2500 a
# token of the answer; four times that in full. Cached tokens cost nothing.
MACHINE = """
machines:
  - {models: tiny, usd_per_hour: 0.36, input_tokens_per_s: 1000, output_tokens_per_s: 40,
     utilization: 0.25, measured_on: 2026-11-20}
"""


class Served:
    def __init__(self, server: RunningServer, client: httpx.Client, ledger: Ledger) -> None:
        self.server, self.client, self.ledger = server, client, ledger

    def post(self, path: str = CHAT, tags: str | None = None, **body: Any) -> httpx.Response:
        headers = {} if tags is None else {"x-headrace-tags": tags}
        return self.client.post(path, json=BODY | body, headers=headers)

    def row(self) -> dict[str, Any]:
        eventually(lambda: self.ledger.count("ledger_rows") >= 1)
        (row,) = self.ledger.rows()
        return row


@contextmanager
def serving(folder: Path, backend: FakeBackend, prices: str = MACHINE) -> Iterator[Served]:
    file = folder / "prices.yaml"
    file.write_text(prices)
    book = PriceBook([read_price_file(file).prices])
    with open_ledger(folder) as ledger:
        accounts = Accounts(ledger=ledger.writer, prices=book)
        with run_server(backend, None, accounts) as server, server.client() as client:
            yield Served(server, client, ledger)


def money(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ("price_state", "price_id", "cost_nano_usd", "marginal_nano_usd")
    return tuple(row[name] for name in names)


# One fresh and one cached token of the prompt, five of the answer.
WHOLE = ("priced", "local/tiny@always", 400 + 50_000, 100 + 12_500)


def test_a_whole_answer_says_its_cost(tmp_path: Path) -> None:
    with serving(tmp_path, FakeBackend(num_cached_tokens=1)) as served:
        answer = served.post(receipt=True, tags="news, nightly,news")
        row = served.row()
    assert money(row) == WHOLE
    assert answer.headers["x-headrace-response-cost"] == "0.0000504"
    assert answer.headers["x-headrace-price-state"] == "priced"
    assert answer.json()["receipt"]["cost"] == {
        "price_state": "priced",
        "usd": "0.0000504",
        "marginal_usd": "0.0000126",
        "price_id": "local/tiny@always",
    }
    assert json.loads(row["tags"]) == ["news", "nightly"]
    assert (row["provider"], row["input_rate"]) == ("local", 400_000_000)
    assert (row["cached_input_rate"], row["output_rate"]) == (0, 10_000_000_000)


def test_a_stream_costs_the_same_and_says_so_at_its_end(tmp_path: Path) -> None:
    with serving(tmp_path, FakeBackend(num_cached_tokens=1)) as served:
        answer = served.post(stream=True, receipt=True)
        row = served.row()
    assert money(row) == WHOLE
    # Known at the beginning only when the first frame is the whole answer.
    assert answer.headers.get("x-headrace-response-cost") in (None, "0.0000504")
    last = json.loads(answer.text.split("data: ")[-2])
    assert last["receipt"]["cost"]["usd"] == "0.0000504"


def test_a_stream_that_is_cut_costs_what_was_generated(tmp_path: Path) -> None:
    backend = FakeBackend(before_step=wait_at(2))
    with serving(tmp_path, backend) as served:
        with raw_post(served.server, CHAT, BODY | {"stream": True}) as raw:
            read_until(raw, b"Hello")
        row = served.row()
    assert row["error"] == "client_disconnected"
    assert row["cost_nano_usd"] == 400 * row["input_tokens"] + 10_000 * row["output_tokens"]
    assert 0 < row["output_tokens"] < 5


def test_several_prompts_cost_together(tmp_path: Path) -> None:
    with serving(tmp_path, FakeBackend()) as served:
        answer = served.post(COMPLETIONS, prompt=["ab", "cde"], n=2, max_tokens=3)
        row = served.row()
    assert row["cost_nano_usd"] == 5 * 400 + 12 * 10_000
    assert answer.headers["x-headrace-response-cost"] == "0.000122"


def test_without_a_price_the_cost_is_unknown_and_not_zero(tmp_path: Path) -> None:
    with serving(tmp_path, FakeBackend(), "prices: []") as served:
        answer = served.post(receipt=True)
        row = served.row()
    assert money(row) == ("unpriced", None, None, None)
    assert answer.headers["x-headrace-price-state"] == "unpriced"
    assert "x-headrace-response-cost" not in answer.headers
    assert answer.json()["receipt"]["cost"]["usd"] is None


def test_a_refused_call_costs_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, FakeBackend()) as served:
        answer = served.post(temperature=9)
        row = served.row()
    assert answer.status_code == 400
    assert money(row) == ("none", None, 0, 0)
    assert "x-headrace-response-cost" not in answer.headers


@pytest.mark.parametrize("tags", ["x" * 65, ",".join(map(str, range(17)))])
def test_tags_have_bounds(tmp_path: Path, tags: str) -> None:
    with serving(tmp_path, FakeBackend()) as served:
        answer = served.post(tags=tags)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "x-headrace-tags"


def test_a_budget_of_a_tenant_with_any_name(tmp_path: Path) -> None:
    """A header has no room for every letter; the answer must not break for that."""
    file = tmp_path / "prices.yaml"
    file.write_text(MACHINE)
    budgets = Budgets(lambda _budget, _begin: 0)
    budget = Budget(scope="tenant", name="日本 ü", period="total", warn_nano_usd=1)
    budgets.replace([budget], datetime.now(UTC).date())
    key = ApiKey(id="k", name="k", tenant="日本 ü", scopes=("inference",))
    accounts = Accounts(
        keys=StoredKeys([StoredKey(key, hash_secret("hr_k"))]),
        prices=PriceBook([read_price_file(file).prices]),
        budgets=budgets,
    )
    with run_server(accounts=accounts) as server, server.client() as client:
        headers = {"Authorization": "Bearer hr_k"}
        warnings: list[str | None] = []

        def is_warned() -> bool:
            """The first call is paid a moment after its answer."""
            reply = client.post(CHAT, json=BODY | {"max_tokens": 5}, headers=headers)
            assert reply.status_code == 200
            warnings.append(reply.headers.get("x-headrace-budget-warning"))
            return warnings[-1] is not None

        eventually(is_warned)
    assert (warnings[-1] or "").startswith("tenant:?? ü:total has used")
