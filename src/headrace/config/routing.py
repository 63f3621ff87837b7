"""The sections of a settings file about tiers: `upstreams`, `tiers` and `routing`.

In: the plain values of a YAML file. Out: a RoutingConfig. Unknown keys are errors that list near
names. Loaded only where a file has one of the sections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from headrace.config.load import convert_to, unknown_name
from headrace.config.yaml_text import read_yaml
from headrace.core.errors import ConfigError, InWords
from headrace.core.routing_config import (
    CacheConfig,
    CascadeConfig,
    RoutingConfig,
    RuleConfig,
    TierBackendConfig,
    TierConfig,
)
from headrace.core.routing_options import (
    HedgeConfig,
    LearnedConfig,
    SelfCheckConfig,
    SemanticConfig,
    ShadowConfig,
    check_name,
)
from headrace.core.units import parse_bytes
from headrace.core.upstreams import UpstreamConfig

Record = TypeVar("Record")
# Keys of a file that are maps or lists of their own, and read before the record is made.
_READ_APART = frozenset(
    {
        *("backends", "hedge", "price", "self_check", "semantic"),
        *("tasks", "rules", "cascades", "learned", "cache", "shadow"),
    }
)


def read_routing(path: Path) -> RoutingConfig:
    """The tiers of a file whose other sections were read before. Raises: ConfigError."""
    # Prices do not go through binary fractions.
    tree = read_yaml(path.read_bytes(), is_exact=True)
    return make_routing(tree if isinstance(tree, Mapping) else {})


def make_routing(tree: Mapping[Any, Any]) -> RoutingConfig:
    """Raises: ConfigError that names the entry and its key."""
    tiers = tuple(
        _make_tier(str(name), value) for name, value in _map(tree.get("tiers"), "tiers").items()
    )
    upstreams = tuple(
        _make_upstream(name, value, tiers)
        for name, value in _map(tree.get("upstreams"), "upstreams").items()
    )
    given = dict(_map(tree.get("routing"), "routing"))
    rules = tuple(
        _make(RuleConfig, value, f"routing.rules[{number}]")
        for number, value in enumerate(_list(given.pop("rules", None), "routing.rules"), 1)
    )
    tasks = _map(given.pop("tasks", None), "routing.tasks")
    for task, use in tasks.items():
        if not isinstance(use, str):
            raise ConfigError(f"routing.tasks.{task}", use, "the name of a destination")
    cascades = tuple(
        _make_cascade(str(name), value)
        for name, value in _map(given.pop("cascades", None), "routing.cascades").items()
    )
    learned = tuple(
        _make(LearnedConfig, value, f"routing.learned.{name}", name=str(name))
        for name, value in _map(given.pop("learned", None), "routing.learned").items()
    )
    made: dict[str, Any] = {"cascades": cascades, "learned": learned}
    # `cache: {}` is one with defaults.
    if (cache := given.pop("cache", None)) is not None:
        options = _options(cache, "routing.cache", semantic=SemanticConfig)
        made["cache"] = _make(CacheConfig, *options[:2], **options[2])
    if (shadow := given.pop("shadow", None)) is not None:
        made["shadow"] = _make(ShadowConfig, shadow, "routing.shadow")
    made |= {"upstreams": upstreams, "tiers": tiers, "tasks": dict(tasks), "rules": rules}
    return _make(RoutingConfig, given, "routing", **made)


def _make_upstream(name: object, value: object, tiers: Sequence[TierConfig]) -> UpstreamConfig:
    check_name(name, "upstreams")
    where = f"upstreams.{name}"
    models = dict.fromkeys(
        backend.model for tier in tiers for backend in tier.backends if backend.upstream == name
    )
    return _make(UpstreamConfig, value, where, name=name, models=tuple(models))


def _make_tier(name: str, value: object) -> TierConfig:
    where = f"tiers.{name}"
    given = dict(_map(value, where))
    backends = tuple(
        _make_backend(entry, f"{where}.backends[{number}]")
        for number, entry in enumerate(_list(given.pop("backends", None), f"{where}.backends"), 1)
    )
    rest, where, made = _options(given, where, hedge=HedgeConfig)
    return _make(TierConfig, rest, where, name=name, backends=backends, **made)


def _make_cascade(name: str, value: object) -> CascadeConfig:
    rest, where, made = _options(value, f"routing.cascades.{name}", self_check=SelfCheckConfig)
    return _make(CascadeConfig, rest, where, name=name, **made)


def _options(
    value: object, where: str, **kinds: type[Any]
) -> tuple[dict[Any, Any], str, dict[str, Any]]:
    """A map without its keys that are maps themselves, its place, and the records of those."""
    given = dict(_map(value, where))
    made = {
        name: _make(kind, option, f"{where}.{name}")
        for name, kind in kinds.items()
        if (option := given.pop(name, None)) is not None
    }
    return given, where, made


def _make_backend(value: object, where: str) -> TierBackendConfig:
    if isinstance(value, str):
        value = {"model": value}
    given = dict(_map(value, where))
    price = given.pop("price", None)
    if price is not None:
        price = dict(_map(price, f"{where}.price"))
    return _make(TierBackendConfig, given, where, price=price)


def _make(kind: type[Record], value: object, where: str, **made: Any) -> Record:
    """A record of plain values; `made` are the fields that the caller has read."""
    given = _map(value, where)
    hints = get_type_hints(kind)
    known = [entry.name for entry in fields(kind) if entry.name not in made]  # type: ignore[arg-type]
    values: dict[str, object] = {}
    for key, plain in given.items():
        if key not in known:
            every = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]
            shown_keys = [name for name in every if name in known or name in _READ_APART]
            raise unknown_name(
                f"{where}.{key}", "setting", [f"{where}.{name}" for name in shown_keys]
            )
        shown = f"{where}.{key}"
        if key.endswith("_bytes") and isinstance(plain, str):
            values[key] = parse_bytes(plain, shown)
        else:
            number = float(plain) if isinstance(plain, Decimal) else plain
            values[key] = convert_to(hints[key], number, shown)
    try:
        return kind(**values, **made)
    except TypeError:
        missing = [name for name in known if name not in values and _is_required(kind, name)]
        raise ConfigError(where, InWords(f"without {', '.join(missing)}"), "with it") from None


def _is_required(kind: type[Any], name: str) -> bool:
    entry = next(entry for entry in fields(kind) if entry.name == name)
    return entry.default is entry.default_factory  # both are missing


def _map(value: object, where: str) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(where, value, "a map of settings")
    return value


def _list(value: object, where: str) -> Sequence[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ConfigError(where, value, "a list")
    return value
