"""Sections of a settings file about tiers, and what is wrong with them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from headrace.config.env import read_secret
from headrace.config.resolve import resolve_config
from headrace.core.errors import ConfigError
from headrace.launch.prices import tier_prices

GOOD = """
server:
  port: 0
upstreams:
  far:
    url: https://far.example/v1
    api_key: env:FAR_KEY
    idle_timeout_s: 12.5
    refuses: [seed]
tiers:
  cheap:
    backends: [small]
    fallback: premium
    note: fine for labels
  premium:
    order: least-busy
    backends:
      - model: big
        upstream: far
        price: {input_per_1m: 0.1, output_per_1m: 3}
      - {model: small}
routing:
  default: premium
  tasks: {categorize: cheap}
  rules:
    - {name: long, use: premium, min_input_tokens: 100, languages: [de]}
"""


def read(tmp_path: Path, text: str) -> object:
    path = tmp_path / "tiers.yaml"
    path.write_text(text)
    return resolve_config({}, {}, path).routing


def test_what_a_file_says(tmp_path: Path) -> None:
    routing = read(tmp_path, GOOD)
    assert routing is not None
    cheap, premium = routing.tiers  # type: ignore[attr-defined]
    (far,) = routing.upstreams  # type: ignore[attr-defined]
    assert (far.models, far.idle_timeout_s, far.refuses) == (("big",), 12.5, ("seed",))
    assert far.key_variable == "FAR_KEY"
    assert [backend.name for backend in premium.backends] == ["far/big", "small"]
    # Money does not go through binary fractions.
    assert premium.backends[0].price["input_per_1m"] == Decimal("0.1")
    assert (cheap.fallback, premium.order) == ("premium", "least-busy")
    assert routing.local_models == ("small",)  # type: ignore[attr-defined]
    assert routing.rules[0].languages == ("de",)  # type: ignore[attr-defined]


def test_what_is_allowed_has_every_key(tmp_path: Path) -> None:
    """A price is a backend's: who gives it to a tier has to see where backends are."""
    for old, new, also in (
        ("  cheap:\n", "  cheap:\n    price: {}\n", "tiers.cheap.backends, tiers.cheap.order"),
        ("routing:\n", "routing:\n  task: {}\n", "routing.tasks, routing.rules"),
        (
            "{model: small}",
            "{model: small, cost: 1}",
            "].upstream, tiers.premium.backends[2].price",
        ),
    ):
        assert old in GOOD
        with pytest.raises(ConfigError) as refused:
            read(tmp_path, GOOD.replace(old, new))
        assert also in refused.value.allowed
        assert "routing.tiers" not in refused.value.allowed


def test_numbers_are_shown_as_they_were_written(tmp_path: Path) -> None:
    wrong = GOOD.replace("input_per_1m: 0.1, output_per_1m: 3}", "input_per_1m: [0.1]}")
    routing = read(tmp_path, wrong)
    with pytest.raises(ConfigError, match=r"is \[0.1\]; allowed: a number of dollars"):
        tier_prices(routing)  # type: ignore[arg-type]
    twice = GOOD.replace("backends: [small]", "backends: [{model: big, upstream: far, price: "
                         "{input_per_1m: 0.25}}]")  # fmt: skip
    with pytest.raises(ConfigError) as refused:
        tier_prices(read(tmp_path, twice))  # type: ignore[arg-type]
    assert 'is {"input_per_1m": 0.1, "output_per_1m": 3}' in refused.value.message
    assert 'in another tier: {"input_per_1m": 0.25}' in refused.value.message


def test_a_limit_of_a_rule_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, GOOD.replace("min_input_tokens: 100", "max_input_tokens: -1"))
    assert refused.value.message == (
        "routing.rules.long.max_input_tokens is -1; allowed: a number of tokens, 0 or more, or "
        "left out for no limit."
    )


def test_a_file_without_tiers_routes_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, "server:\n  port: 0\n") is None


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("order: least-busy", "order: random", "tiers.premium.order"),
        ("fallback: premium", "fallback: other", "tiers.cheap.fallback"),
        ("default: premium", "default: other", "routing.default"),
        ("{categorize: cheap}", "{categorize: other}", "routing.tasks.categorize"),
        ("use: premium", "use: other", "routing.rules.long.use"),
        ("upstream: far", "upstream: near", "tiers.premium.backends"),
        ("api_key: env:FAR_KEY", "api_key: sk-123456", "upstreams.far.api_key"),
        ("idle_timeout_s: 12.5", "idle_timeout_s: soon", "upstreams.far.idle_timeout_s"),
        ("note: fine", "notes: fine", "tiers.cheap.notes"),
        ("min_input_tokens: 100", "min_tokens: 1", "routing.rules[1].min_tokens"),
        ("backends: [small]", "backends: []", "tiers.cheap.backends"),
        ("backends: [small]", "backends: [small, small]", "tiers.cheap.backends"),
        ("backends: [small]", "backends: small", "tiers.cheap.backends"),
        ("name: long, use", "use", "routing.rules[1]"),
        ("  default: premium", "  max_attempts: 0", "routing.max_attempts"),
        ("order: least-busy", "fallback: cheap", "tiers.cheap.fallback"),
        ("tiers:", "tears:", "tears"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, field: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert caught.value.field == field
    assert "sk-123456" not in str(caught.value)


def test_routing_needs_tiers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one tier"):
        read(tmp_path, "routing:\n  default: x\n")


def test_what_nobody_gave_is_not_shown_as_a_value(tmp_path: Path) -> None:
    """And a name is told the near ones."""
    for old, new, said in (
        ("backends: [small]", "backends: []", "tiers.cheap.backends is empty; allowed: at least"),
        ("{model: small}", "{upstream: far}", "tiers.premium.backends[2] is without model; "),
        ("api_key: env:FAR_KEY", "api_key: sk-1", "upstreams.far.api_key is no reference; "),
        ("fallback: premium", "fallback: premum", "Did you mean premium?"),
        ("upstream: far", "upstream: farr", "allowed: one of far. Did you mean far?"),
    ):
        assert old in GOOD
        with pytest.raises(ConfigError) as refused:
            read(tmp_path, GOOD.replace(old, new, 1))
        assert said in refused.value.message
    with pytest.raises(ConfigError, match="tiers is empty; allowed: at least one tier"):
        read(tmp_path, "tiers: {}\n")


def test_a_key_is_read_from_where_it_is_named() -> None:
    assert read_secret("FAR", {"FAR": " sk-1 "}, "upstreams.far.api_key") == "sk-1"
    for environ in ({}, {"FAR": " "}, {"FAR": "two words"}, {"FAR": "sk-ü"}):
        with pytest.raises(ConfigError) as caught:
            read_secret("FAR", environ, "upstreams.far.api_key")
        assert caught.value.field == "upstreams.far.api_key"
        assert "words" not in str(caught.value).replace("spaces", "")
