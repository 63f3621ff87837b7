"""headrace's own price file: prices per million tokens, and machines that models run on.

In: decoded YAML whose numbers are exact. Out: Prices; those of own models follow from a machine's
cost per hour and what it was measured to compute. Unknown keys are errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

from headrace.core.errors import ConfigError, InWords
from headrace.core.near_names import did_you_mean
from headrace.economics.machine_price import price_machine
from headrace.economics.price_tables import (
    PriceTable,
    make_schedule,
    read_day,
    read_match,
    read_usd,
)
from headrace.economics.prices import (
    LOCAL,
    Match,
    MeasuredMachine,
    Price,
    Schedule,
    scale_schedule,
    to_nano_usd,
)

_SECTIONS = ("prices", "machines")
_RATES = {
    "input_per_1m": "input",
    "prompt_per_1m": "input",
    "cache_read_per_1m": "cached_input",
    "cached_input_per_1m": "cached_input",
    "cache_write_per_1m": "cache_write",
    "cache_write_1h_per_1m": "cache_write_1h",
    "output_per_1m": "output",
    "completion_per_1m": "output",
    "reasoning_per_1m": "reasoning",
}
_PRICE_KEYS = (
    *("provider", "model", "match", "currency", "effective_from", "effective_until"),
    *("checked", "source", "batch_factor", "batch", "above"),
    *_RATES,
)
_MACHINE_KEYS = (
    *("name", "models", "usd_per_hour", "input_tokens_per_s", "output_tokens_per_s"),
    *("utilization", "concurrency", "measured_on", "source", "effective_from", "effective_until"),
)


def read_price_yaml(tree: Any, where: str) -> PriceTable:
    """Read a price file. Raises: ConfigError that names the entry and its key."""
    table = PriceTable()
    _check_keys(tree, _SECTIONS, where)
    for section in _SECTIONS:
        entries = tree.get(section) or []
        if not isinstance(entries, list):
            raise ConfigError(f"{where}: {section}", entries, "a list")
        for number, entry in enumerate(entries, 1):
            shown = f"{where}: {section}[{number}]"
            read = _read_price if section == "prices" else _read_machine
            table.prices += read(entry, shown, where)
    return table


def _read_price(entry: Any, where: str, file: str) -> list[Price]:
    _check_keys(entry, _PRICE_KEYS, where)
    currency = entry.get("currency", "USD")
    if currency != "USD":
        raise ConfigError(f"{where}.currency", currency, "USD, the currency of the ledger")
    match, model = _read_names(entry, where)
    standard = _read_schedule(entry, where)
    since, until = _read_days(entry, where)
    return [
        Price(
            provider=_read_text(entry, "provider", where, LOCAL),
            model=model,
            match=match,
            standard=standard,
            batch=_read_batch(entry, standard, where),
            effective_from=since,
            effective_until=until,
            checked=read_day(entry.get("checked"), f"{where}.checked"),
            source=_read_text(entry, "source", where, file),
        )
    ]


def _read_names(entry: Mapping[str, Any], where: str) -> tuple[Match, str]:
    model, rule = entry.get("model"), entry.get("match")
    if model is None and rule is None:
        raise ConfigError(
            f"{where}.model", InWords("missing"), "the name of a model, or match with a rule"
        )
    if model is not None and (not isinstance(model, str) or not model):
        raise ConfigError(f"{where}.model", model, "the name of a model")
    if rule is None:
        return Match("equals", str(model)), str(model)
    match = read_match(rule, f"{where}.match")
    return match, model or match.text or match.kind


def _read_schedule(entry: Mapping[str, Any], where: str) -> Schedule:
    tiers: dict[int, dict[str, int]] = {}
    above = entry.get("above") or []
    if not isinstance(above, list):
        raise ConfigError(f"{where}.above", above, "a list of maps with input_tokens and prices")
    for number, tier in enumerate(above, 1):
        shown = f"{where}.above[{number}]"
        _check_keys(tier, ("input_tokens", *_RATES), shown)
        start = tier.get("input_tokens")
        if type(start) is not int or start < 1 or start in tiers:
            raise ConfigError(f"{shown}.input_tokens", start, "a number of tokens, each once")
        tiers[start] = _read_rates(tier, shown)
    base = _read_rates(entry, where)
    if not base:
        raise ConfigError(where, InWords("without a price"), f"at least one of {', '.join(_RATES)}")
    return make_schedule(base, tiers)


def _read_rates(entry: Mapping[str, Any], where: str) -> dict[str, int]:
    rates: dict[str, int] = {}
    for key, kind in _RATES.items():
        if entry.get(key) is None:
            continue
        if kind in rates:
            raise ConfigError(f"{where}.{key}", entry[key], "one name of a price, not two")
        rates[kind] = read_usd(entry[key], f"{where}.{key}")
    return rates


def _read_batch(entry: Mapping[str, Any], standard: Schedule, where: str) -> Schedule | None:
    factor, batch = entry.get("batch_factor"), entry.get("batch")
    if factor is not None and batch is not None:
        raise ConfigError(f"{where}.batch", InWords("given"), "batch or batch_factor, not both")
    if batch is not None:
        _check_keys(batch, ("above", *_RATES), f"{where}.batch")
        own = _read_schedule(batch, f"{where}.batch")
        return Schedule(own.rates.over(standard.rates), own.tiers or standard.tiers)
    if factor is None:
        return None
    return scale_schedule(standard, _read_number(entry, "batch_factor", where, 0, 1))


def _read_machine(entry: Any, where: str, file: str) -> list[Price]:
    _check_keys(entry, _MACHINE_KEYS, where)
    models = entry.get("models")
    if isinstance(models, str):
        models = [models]
    is_list = isinstance(models, list) and models
    if not is_list or not all(isinstance(name, str) and name for name in models):
        raise ConfigError(f"{where}.models", models, "names of models that run on it")
    concurrency = None
    if entry.get("concurrency") is not None:
        concurrency = _read_number(entry, "concurrency", where, 0, 10**6)
    machine = MeasuredMachine(
        nano_usd_per_hour=to_nano_usd(_read_number(entry, "usd_per_hour", where, 0, 10**6)),
        input_tokens_per_s=_read_speed(entry, "input_tokens_per_s", where),
        output_tokens_per_s=_read_speed(entry, "output_tokens_per_s", where),
        utilization=_read_share(entry, where),
        concurrency=concurrency,
    )
    since, until = _read_days(entry, where)
    return [
        price_machine(
            machine,
            model,
            source=_read_text(entry, "source", where, file),
            measured_on=read_day(entry.get("measured_on"), f"{where}.measured_on"),
            effective_from=since,
            effective_until=until,
        )
        for model in models
    ]


def _read_days(entry: Mapping[str, Any], where: str) -> tuple[date | None, date | None]:
    """The first day of a price and the first on which it holds no more."""
    since = read_day(entry.get("effective_from"), f"{where}.effective_from")
    until = read_day(entry.get("effective_until"), f"{where}.effective_until")
    if since is not None and until is not None and until <= since:
        allowed = f"a day after effective_from, {since}"
        raise ConfigError(f"{where}.effective_until", until.isoformat(), allowed)
    return since, until


def _read_speed(entry: Mapping[str, Any], key: str, where: str) -> Decimal:
    return _read_number(entry, key, where, Decimal("0.001"), 10**9)


def _read_share(entry: Mapping[str, Any], where: str) -> Decimal:
    return _read_number(entry, "utilization", where, Decimal("0.0001"), 1)


def _read_number(
    entry: Mapping[str, Any], key: str, where: str, low: int | Decimal, high: int
) -> Decimal:
    value = entry.get(key)
    if isinstance(value, int | Decimal) and not isinstance(value, bool) and low <= value <= high:
        return Decimal(value)
    raise ConfigError(f"{where}.{key}", value, f"a number from {low} to {high}")


def _read_text(entry: Mapping[str, Any], key: str, where: str, default: str) -> str:
    value = entry.get(key, default)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}.{key}", value, "a text")
    return value


def _check_keys(entry: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(entry, Mapping):
        raise ConfigError(where, entry, f"a map with {', '.join(known[:6])}, ...")
    for key in entry:
        if key not in known:
            hint = did_you_mean(key, known, most=2)
            raise ConfigError(f"{where}.{key}", InWords("no key"), ", ".join(known), hint)
