"""Price tables of others: the JSON of genai-prices and of LiteLLM, to Prices.

In: decoded JSON whose numbers are exact. Out: Prices, and notes on what was left out and why. Knows
no file and no precedence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

from headrace.core.errors import ConfigError
from headrace.economics.prices import (
    Match,
    MatchKind,
    Price,
    PriceTier,
    Rates,
    Schedule,
    to_nano_usd,
)

_GENAI_KEYS = {
    "input_mtok": "input",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_mtok": "output",
}
_LITELLM_KEYS = {
    "input_cost_per_token": "input",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "output_cost_per_token": "output",
    "output_cost_per_reasoning_token": "reasoning",
}
_LITELLM_TIER = re.compile(r"(?P<key>.+)_above_(?P<thousands>\d+)k_tokens")
_TEXT_MATCHES: tuple[MatchKind, ...] = ("equals", "starts_with", "ends_with", "contains", "regex")
_GROUP_MATCHES: tuple[MatchKind, ...] = ("or", "and")
_PER_TOKEN = Decimal(10**6)


@dataclass(slots=True)
class PriceTable:
    """Prices of one file. `notes` are lines for people."""

    prices: list[Price] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_genai_prices(tree: Any, where: str) -> PriceTable:
    """Read the shape of genai-prices: a list of providers, or a map that has one.

    Raises: ConfigError.
    """
    providers = tree["providers"] if isinstance(tree, Mapping) else tree
    about = tree.get("about", {}) if isinstance(tree, Mapping) else {}
    checked = read_day(about.get("checked"), f"{where}: about.checked")
    table = PriceTable()
    if not isinstance(providers, list):
        raise ConfigError(f"{where}: providers", providers, "a list")
    for provider in providers:
        shown = f"{where}: {_name_of(provider)}"
        urls = provider.get("pricing_urls") or [where]
        for model in _list_of(provider, "models", shown):
            _add_genai_model(table, model, str(provider["id"]), str(urls[0]), checked, f"{shown}/")
    return table


def _add_genai_model(
    table: PriceTable,
    model: Any,
    provider: str,
    source: str,
    checked: date | None,
    where: str,
) -> None:
    where += _name_of(model)
    prices = model.get("prices", {})
    entries = prices if isinstance(prices, list) else [{"prices": prices}]
    batches = [
        entry
        for entry in model.get("price_variants") or ()
        if entry.get("when") == {"processing": "batch"}
    ]
    dated = _dated(table, entries, where)
    dated_batches = _dated(table, batches, where)
    if not any(_has_tokens(rates) for rates in dated.values()):
        table.notes.append(f"{where} has no price of tokens and is left out.")
        return
    match = read_match(model.get("match", {"equals": model["id"]}), f"{where}: match")
    days = sorted({*dated, *dated_batches}, key=lambda day: day or date.min)
    for day, until in zip(days, [*days[1:], None], strict=True):
        standard = _last_until(dated, day)
        if standard is None:
            continue
        batch = _last_until(dated_batches, day)
        table.prices.append(
            Price(
                provider=provider,
                model=str(model["id"]),
                match=match,
                standard=_to_schedule(standard, where),
                batch=None if batch is None else _to_schedule({**standard, **batch}, where),
                effective_from=day,
                effective_until=until,
                checked=checked,
                source=source,
            )
        )


def _dated(
    table: PriceTable, entries: Iterable[Any], where: str
) -> dict[date | None, dict[str, Any]]:
    """Prices by the day they begin. Of those for hours of the day the dearest holds all day.

    The hours of the cheap one are nobody's promise here, and either may stand first in a file.
    """
    found: dict[date | None, dict[str, Any]] = {}
    of_hours: list[dict[str, Any]] = []
    for entry in entries:
        constraint, prices = entry.get("constraint") or {}, entry.get("prices", {})
        kept = {key: value for key, value in prices.items() if key in _GENAI_KEYS}
        if "requests_kcount" in prices:
            table.notes.append(f"{where}: a price for each request is left out.")
        if "start_time" in constraint or "end_time" in constraint:
            of_hours.append(kept)
        else:
            found[read_day(constraint.get("start_date"), f"{where}: start_date")] = kept
    if not of_hours:
        return found
    table.notes.append(f"{where}: of prices for hours of the day the dearest holds all day.")
    return {
        day: max((prices, *of_hours), key=_total) for day, prices in (found or {None: {}}).items()
    }


def _total(prices: Mapping[str, Any]) -> Decimal:
    """What a token of each kind costs together, to tell dear from cheap."""
    bases = (
        value.get("base") if isinstance(value, Mapping) else value for value in prices.values()
    )
    return sum((Decimal(base) for base in bases if isinstance(base, int | Decimal)), Decimal(0))


def _has_tokens(prices: Mapping[str, Any]) -> bool:
    return "input_mtok" in prices or "output_mtok" in prices


def _last_until(
    dated: Mapping[date | None, dict[str, Any]], day: date | None
) -> dict[str, Any] | None:
    """What holds on a day; None: nothing yet."""
    limit = day or date.min
    begun = [start for start in dated if (start or date.min) <= limit]
    return dated[max(begun, key=lambda start: start or date.min)] if begun else None


def _to_schedule(prices: Mapping[str, Any], where: str) -> Schedule:
    base: dict[str, int] = {}
    tiers: dict[int, dict[str, int]] = {}
    for key, value in prices.items():
        kind = _GENAI_KEYS[key]
        if isinstance(value, Mapping):
            for tier in value.get("tiers", ()):
                start = int(tier["start"])
                tiers.setdefault(start, {})[kind] = read_usd(tier["price"], f"{where}: {key}")
            value = value.get("base")
        base[kind] = read_usd(value, f"{where}: {key}")
    return make_schedule(base, tiers)


def read_litellm(tree: Any, where: str) -> PriceTable:
    """Read the shape of LiteLLM: a map from names to facts, prices in dollars per token.

    Raises: ConfigError.
    """
    table, num_without = PriceTable(), 0
    for name, facts in tree.items():
        if name == "sample_spec":
            continue
        if not isinstance(facts, Mapping):
            raise ConfigError(f"{where}: {name}", facts, "a map of facts of a model")
        provider = str(facts.get("litellm_provider") or "unknown")
        standard = _litellm_schedule(facts, "", f"{where}: {name}")
        if standard is None:
            num_without += 1
            continue
        batch = _litellm_schedule(facts, "_batches", f"{where}: {name}")
        model = str(name).removeprefix(f"{provider}/")
        table.prices.append(
            Price(
                provider=provider,
                model=model,
                match=Match("equals", model),
                standard=standard,
                batch=None if batch is None else _over(batch, standard),
                source=str(facts.get("source") or where),
            )
        )
    if num_without:
        models = "1 model has" if num_without == 1 else f"{num_without} models have"
        table.notes.append(f"{where}: {models} no price of tokens.")
    return table


def _litellm_schedule(facts: Mapping[str, Any], suffix: str, where: str) -> Schedule | None:
    base: dict[str, int] = {}
    tiers: dict[int, dict[str, int]] = {}
    for full_key, value in facts.items():
        if value is None or not full_key.endswith(suffix):
            continue
        key = full_key.removesuffix(suffix)
        tier = _LITELLM_TIER.fullmatch(key)
        kind = _LITELLM_KEYS.get(tier["key"] if tier else key)
        if kind is None:
            continue
        nano_usd = read_usd(value, f"{where}: {full_key}", _PER_TOKEN)
        if tier:
            tiers.setdefault(int(tier["thousands"]) * 1000, {})[kind] = nano_usd
        else:
            base[kind] = nano_usd
    has_tokens = "input" in base or "output" in base
    return make_schedule(base, tiers) if has_tokens else None


def _over(batch: Schedule, standard: Schedule) -> Schedule:
    """A batch's own rates, and the standard ones where it has none."""
    return Schedule(batch.rates.over(standard.rates), batch.tiers or standard.tiers)


def make_schedule(base: Mapping[str, int], tiers: Mapping[int, Mapping[str, int]]) -> Schedule:
    """Rates by kind, and by the input above which others hold."""
    steps, below = [], Rates(**base)
    for start in sorted(tiers):
        below = Rates(**tiers[start]).over(below)
        steps.append(PriceTier(start, below))
    return Schedule(Rates(**base), tuple(steps))


def read_usd(value: Any, where: str, factor: Decimal = Decimal(1)) -> int:
    """Dollars to nano-dollars. Raises: ConfigError."""
    is_number = isinstance(value, int | Decimal) and not isinstance(value, bool)
    if not is_number or not 0 <= value * factor <= 10**6:
        raise ConfigError(where, value, "a number of dollars, 0 or more")
    return to_nano_usd(Decimal(value) * factor)


def read_day(value: Any, where: str) -> date | None:
    """A day such as 2026-11-22; None of none. Raises: ConfigError."""
    if value is None or type(value) is date:
        return value
    try:
        return date.fromisoformat(value)
    except (ValueError, TypeError):
        raise ConfigError(where, value, "a day such as 2026-11-22") from None


def read_match(tree: Any, where: str) -> Match:
    """A rule for names: `{"starts_with": "gpt-5"}`, `{"or": [...]}`. Raises: ConfigError."""
    if isinstance(tree, Mapping) and len(tree) == 1:
        ((kind, value),) = tree.items()
        for group in _GROUP_MATCHES:
            if kind == group and isinstance(value, list) and value:
                return Match(group, parts=tuple(read_match(part, where) for part in value))
        for single in _TEXT_MATCHES:
            if kind == single and isinstance(value, str):
                _check_pattern(single, value, where)
                return Match(single, value)
    allowed = f"a map with one of {', '.join((*_TEXT_MATCHES, *_GROUP_MATCHES))}"
    raise ConfigError(where, tree, allowed)


def _check_pattern(kind: str, text: str, where: str) -> None:
    if kind != "regex":
        return
    try:
        re.compile(text)
    except re.error as error:
        raise ConfigError(where, text, "a regular expression", str(error)) from None


def _name_of(entry: Any) -> str:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("id"), str):
        raise ConfigError("id", entry, "a map with an id")
    return str(entry["id"])


def _list_of(entry: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = entry.get(key)
    if not isinstance(value, list):
        raise ConfigError(f"{where}: {key}", value, "a list")
    return value
