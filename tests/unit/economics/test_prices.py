"""Prices: what files say, which one holds when, and that nothing goes through binary fractions."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from headrace.core.errors import ConfigError
from headrace.economics.machine_price import ServedCall, measure_work
from headrace.economics.price_files import built_in, open_price_book, read_price_file
from headrace.economics.prices import KINDS, PriceBook, Rates, format_usd

TODAY = date(2026, 11, 22)
YAML = """
prices:
  - provider: anthropic
    model: claude-sonnet-5
    effective_from: 2026-09-01
    effective_until: 2027-01-01
    input_per_1m: 3.00
    output_per_1m: 15.10
    cache_read_per_1m: 0.30
    cache_write_per_1m: 3.75
    cache_write_1h_per_1m: 6
    batch_factor: 0.5
    source: contract 2026-09
    above:
      - {input_tokens: 200000, input_per_1m: 6}
  - match: {starts_with: "my-"}
    prompt_per_1m: 0.1
    cached_input_per_1m: 0.07
    completion_per_1m: 0.3
    batch: {input_per_1m: 0.01}
machines:
  - name: box
    models: [tiny]
    usd_per_hour: 0.36
    input_tokens_per_s: 1000
    output_tokens_per_s: 40
    utilization: 0.25
    concurrency: 8
    measured_on: 2026-11-20
"""


def write(folder: Path, text: str, name: str = "prices.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def usd(**rates: str) -> Rates:
    return Rates(**{kind: int(Decimal(value) * 10**9) for kind, value in rates.items()})


@pytest.fixture
def book(tmp_path: Path) -> PriceBook:
    return open_price_book([write(tmp_path, YAML)])


def test_our_yaml_is_exact(book: PriceBook) -> None:
    price = book.find("anthropic", "claude-sonnet-5", TODAY)
    assert price is not None
    rates = usd(
        input="3", cached_input="0.3", cache_write="3.75", cache_write_1h="6", output="15.1"
    )
    assert price.standard.rates == rates
    assert price.standard.rates_for(200_000).input == 3 * 10**9
    assert price.standard.rates_for(200_001).input == 6 * 10**9
    assert price.standard.rates_for(200_001).output == 15_100_000_000
    assert price.batch is not None
    assert (price.batch.rates.cache_write, price.batch.tiers[0].rates.input) == (
        1_875_000_000,
        3_000_000_000,
    )
    assert (price.id, price.source) == (
        "anthropic/claude-sonnet-5@2026-09-01",
        "contract 2026-09",
    )


def test_synonyms_and_an_own_price_of_batches(book: PriceBook) -> None:
    price = book.find("local", "my-model", TODAY)
    assert price is not None
    assert price.standard.rates == usd(input="0.1", cached_input="0.07", output="0.3")
    assert price.batch is not None
    assert price.batch.rates == usd(input="0.01", cached_input="0.07", output="0.3")


def test_a_file_goes_before_what_is_built_in_while_it_is_valid(book: PriceBook) -> None:
    def source(day: date) -> str:
        price = book.find("anthropic", "claude-sonnet-5", day)
        return "none" if price is None else price.source

    assert source(date(2026, 8, 31)).startswith("https://")
    assert source(date(2026, 9, 1)) == "contract 2026-09"
    assert source(date(2026, 12, 31)) == "contract 2026-09"
    assert source(date(2027, 1, 1)).startswith("https://")


def test_the_longer_pattern_goes_first_whatever_its_date(tmp_path: Path) -> None:
    text = """
prices:
  - {provider: x, match: {starts_with: big-mini}, input_per_1m: 1}
  - {provider: x, match: {starts_with: big}, input_per_1m: 9, effective_from: 2026-01-01}
  - {provider: x, match: {starts_with: big}, input_per_1m: 8, effective_from: 2026-06-01}
  - {provider: x, match: {or: [{equals: other}, {contains: big-mini-2}]}, input_per_1m: 2}
  - {provider: x, match: {regex: "^big-mini-2$"}, input_per_1m: 3}
"""
    book = open_price_book([write(tmp_path, text)])

    def input_rate(model: str) -> int | None:
        price = book.find("x", model, TODAY)
        return None if price is None else price.standard.rates.input

    assert input_rate("big-mini-1") == 10**9
    assert input_rate("big-max") == 8 * 10**9
    assert input_rate("big-mini-2") == 2 * 10**9


def test_an_own_model_has_a_full_and_a_marginal_price(book: PriceBook) -> None:
    price = book.find("local", "tiny", TODAY)
    assert price is not None
    assert price.marginal is not None
    # 0.36 USD an hour are 100,000 nano-dollars a second; 1000 tokens of prompt take one.
    assert price.marginal.rates == Rates(input=100_000_000, cached_input=0, output=2_500_000_000)
    assert price.standard.rates == Rates(input=400_000_000, cached_input=0, output=10_000_000_000)
    assert price.state(date(2026, 11, 30), 10) == "priced"
    assert price.state(date(2026, 12, 1), 10) == "stale"


def test_a_model_here_is_not_the_one_of_that_name_elsewhere(book: PriceBook) -> None:
    assert book.find("local", "gpt-4o", TODAY) is None
    assert book.find("openai", "gpt-4o", TODAY) is not None


def test_unknown_models_are_unpriced(book: PriceBook) -> None:
    assert book.find("openai", "gpt-99", TODAY) is None


def test_what_is_built_in_names_its_source_and_is_whole() -> None:
    table = built_in()
    assert table.notes == []
    assert len({price.model for price in table.prices}) >= 50
    for price in table.prices:
        assert price.source.startswith("https://")
        assert price.checked is not None
        rates = price.standard.rates.resolved()
        assert rates.input
        assert rates.cached_input is not None
        assert rates.cached_input <= rates.input


def test_a_dated_price_changes_on_its_day() -> None:
    """Source: the change of gpt-5.6-luna on 2026-07-30, from 1/6 to 0.20/1.20."""
    book = open_price_book([])
    before = book.find("openai", "gpt-5.6-luna", date(2026, 7, 29))
    after = book.find("openai", "gpt-5.6-luna", date(2026, 7, 30))
    assert before is not None
    assert after is not None
    assert (before.standard.rates.input, before.standard.rates.output) == (10**9, 6 * 10**9)
    assert (after.standard.rates.input, after.standard.rates.output) == (
        200_000_000,
        1_200_000_000,
    )
    assert (before.effective_until, after.effective_from) == (
        date(2026, 7, 30),
        date(2026, 7, 30),
    )


def test_litellm_prices_per_token(tmp_path: Path) -> None:
    text = """{"sample_spec": {"input_cost_per_token": 1},
      "openai/x-1": {"litellm_provider": "openai", "input_cost_per_token": 1.5e-07,
        "output_cost_per_token": 6e-07, "cache_read_input_token_cost": 7.5e-08,
        "input_cost_per_token_batches": 7.5e-08, "output_cost_per_token_batches": 3e-07,
        "input_cost_per_token_above_200k_tokens": 3e-07, "mode": "chat", "max_tokens": 9},
      "dall-e": {"litellm_provider": "openai", "input_cost_per_image": 0.04}}"""
    table = read_price_file(write(tmp_path, text, "litellm.json"))
    (price,) = table.prices
    assert (price.provider, price.model) == ("openai", "x-1")
    assert price.standard.rates == usd(input="0.15", cached_input="0.075", output="0.6")
    assert price.standard.rates_for(200_001).input == 300_000_000
    assert price.batch is not None
    assert price.batch.rates == usd(input="0.075", cached_input="0.075", output="0.3")
    assert table.notes == ["litellm.json: 1 model has no price of tokens."]


@pytest.mark.parametrize("is_cheap_first", [False, True])
def test_of_genai_prices_for_hours_of_the_day_the_dearest_holds(
    tmp_path: Path, is_cheap_first: bool
) -> None:
    """Real files have either first: the price without hours may be the one of the night."""
    dear, cheap = {"input_mtok": 2, "output_mtok": 4}, {"input_mtok": 1, "output_mtok": 2.5}
    always, hours = (cheap, dear) if is_cheap_first else (dear, cheap)
    models = [
        {
            "id": "night",
            "prices": [
                {"prices": always},
                {
                    "constraint": {"start_time": "00:30:00", "end_time": "08:30:00"},
                    "prices": hours,
                },
            ],
        },
        {"id": "picture", "prices": {"images_kcount": 3}},
        {"id": "search", "prices": {"input_mtok": 1, "requests_kcount": 12}},
    ]
    tree = [{"id": "deep", "models": models}]
    table = read_price_file(write(tmp_path, json.dumps(tree), "genai.json"))
    rates = [price.standard.rates for price in table.prices]
    assert rates == [usd(input="2", output="4"), usd(input="1")]
    assert len(table.notes) == 3
    assert "of prices for hours of the day the dearest holds all day" in table.notes[0]
    assert "a price for each request is left out" in table.notes[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prices: [{model: a}]", r"prices\[1\] is without a price;"),
        ("prices: [{model: a, input_per_1m: -1}]", r"input_per_1m is -1"),
        ("prices: [{model: a, input_per_1m: 1, currency: EUR}]", r"currency is 'EUR'"),
        ("prices: [{model: a, inptu_per_1m: 1}]", r"Did you mean input_per_1m"),
        ("prices: [{input_per_1m: 1}]", r"\.model is missing"),
        ("prices: [{match: {regex: '('}, input_per_1m: 1}]", r"regular expression"),
        ("prices: [{model: a, input_per_1m: 1, prompt_per_1m: 1}]", r"one name of a price"),
        ("prices: [{model: a, input_per_1m: .inf}]", r"no decimal number"),
        ("prices: [{model: a, input_per_1m: 1, effective_from: soon}]", r"effective_from"),
        (
            "prices: [{model: a, input_per_1m: 1, "
            "effective_from: 2026-02-01, effective_until: 2026-01-01}]",
            r"\[1\]\.effective_until is '2026-01-01'; .* after effective_from, 2026-02-01",
        ),
        ("machines: [{models: a, usd_per_hour: 1}]", r"input_tokens_per_s is None"),
        ("prizes: []", r"prizes"),
        ("- 1", r"allowed: a map"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_entry(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_price_file(write(tmp_path, text))


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    for text in ("{", '{"a": {"input_cost_per_token": NaN}}', "3"):
        with pytest.raises(ConfigError, match="price file"):
            read_price_file(write(tmp_path, text, "a.json"))
    with pytest.raises(ConfigError, match="readable"):
        read_price_file(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("nano_usd", "text"),
    [(0, "0.00"), (1, "0.000000001"), (12_500_000_000, "12.50"), (-4_200, "-0.0000042")],
)
def test_dollars_are_written_exactly(nano_usd: int, text: str) -> None:
    assert format_usd(nano_usd) == text


def test_kinds_are_the_fields_of_rates() -> None:
    assert (
        *("input", "cached_input", "cache_write", "cache_write_1h", "output", "reasoning"),
    ) == KINDS


def test_work_of_a_machine_that_serves_two_at_once() -> None:
    """Two calls at the same time in 10 s of 40: each second of work is for both."""
    calls = [ServedCall(100.0, 0.0, 2.0, 8.0, 400, 80)] * 2
    work = measure_work(calls, 100.0, 140.0)
    assert work is not None
    assert (work.busy_s, work.concurrency, work.utilization) == (10.0, 2.0, 0.25)
    assert work.input_tokens_per_s == pytest.approx(800 / 2.0)
    assert work.output_tokens_per_s == pytest.approx(160 / 8.0)
    assert measure_work([], 0.0, 1.0) is None


def test_time_that_passed_for_others_is_no_price_of_answers() -> None:
    """Four calls at once: prompts of 1 s in turns, each in time that passed for the others too."""
    calls = [
        ServedCall(100.0, 0.0, 1.0 + turn, 13.0 - turn, 500, 100, 1.0, 2.5) for turn in range(4)
    ]
    work = measure_work(calls, 100.0, 114.0)
    assert work is not None
    assert (work.busy_s, work.concurrency, work.utilization) == (14.0, 4.0, 1.0)
    assert work.input_tokens_per_s == pytest.approx(2000 / 4.0)
    assert work.output_tokens_per_s == pytest.approx(400 / 10.0)


def test_calls_whose_engine_told_nothing_are_split_by_their_tokens() -> None:
    """A prompt of 100 tokens in 1 s, then an answer of a token a second, beside which another
    prompt is computed for 1 s of its 10: as many tokens as the answer has go with it."""
    calls = [ServedCall(0.0, 0.0, 1.0, 10.0, 100, 10), ServedCall(5.0, 0.0, 1.0, 5.0, 99, 5)]
    work = measure_work(calls, 0.0, 11.0)
    assert work is not None
    assert 199 / work.input_tokens_per_s == pytest.approx(1.0 + 0.99)
    assert 15 / work.output_tokens_per_s == pytest.approx(11.0 - 1.99)
