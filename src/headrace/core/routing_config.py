"""Tiers and how requests find theirs, as settings.

In: values of a settings file. Out: frozen records whose names fit together. A *destination* is what
a request may be sent to: a tier. Holds no backend and decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from headrace.core.errors import ConfigError
from headrace.core.upstreams import UpstreamConfig

BackendOrder = Literal["first", "least-busy"]

# They stand in names of models and in headers.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NAME_RULE = "1 to 64 letters, digits and _ . -, a letter or digit first"


@dataclass(frozen=True, slots=True, kw_only=True)
class TierBackendConfig:
    """A model that answers for a tier.

    Fields:
        model: its name: of a model here, or as the upstream knows it.
        upstream: the one it runs on; None is this machine.
        price: what it costs, as an entry of a price file without provider and model.
    """

    model: str
    upstream: str | None = None
    price: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """How headers and the ledger call it."""
        return self.model if self.upstream is None else f"{self.upstream}/{self.model}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TierConfig:
    """Models that stand for each other.

    Fields:
        name: how policies, headers and the ledger call it.
        backends: who answers, the first that can.
        order: `first` asks them as they are listed; `least-busy` the one with the fewest requests
            in progress, of equals the first.
        fallback: the tier that is asked when none of them can answer.
        note: what is known of its quality, for people.
        ttft_target_s: wanted time to the first token; backends that were slower lately come last.
    """

    name: str
    backends: tuple[TierBackendConfig, ...]
    order: BackendOrder = "first"
    fallback: str | None = None
    note: str = ""
    ttft_target_s: float | None = None

    def __post_init__(self) -> None:
        where = f"tiers.{self.name}"
        check_name(self.name, "tiers")
        if not self.backends:
            raise ConfigError(f"{where}.backends", self.backends, "at least one backend")
        names = [backend.name for backend in self.backends]
        if len(set(names)) != len(names):
            raise ConfigError(f"{where}.backends", ", ".join(names), "each backend once")
        if self.order not in get_args(BackendOrder):
            raise ConfigError(f"{where}.order", self.order, "one of first, least-busy")
        target_s = self.ttft_target_s
        if target_s is not None and not 0 < target_s <= 3600:
            raise ConfigError(f"{where}.ttft_target_s", target_s, "a number above 0, at most 3600")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleConfig:
    """Sends a request somewhere when all that is said of it here is true.

    Fields:
        name: shown as the reason.
        use: the destination.
        min_input_tokens, max_input_tokens: length of the prompt, estimated by its bytes.
        has_tools, has_form, has_code: whether it brings tools, wants an answer of a given form, or
            has code in its last message.
        languages: of its last message: an ISO 639-1 code, or a script such as `cyrillic`.
        words: one of them stands in its last message, in any case.
    """

    name: str
    use: str
    min_input_tokens: int | None = None
    max_input_tokens: int | None = None
    has_tools: bool | None = None
    has_form: bool | None = None
    has_code: bool | None = None
    languages: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name, "routing.rules")
        limits = (self.min_input_tokens, self.max_input_tokens)
        if any(limit is not None and limit < 0 for limit in limits):
            raise ConfigError(f"routing.rules.{self.name}", limits, "numbers of tokens, 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingConfig:
    """Tiers, upstreams and policies. Without tiers nothing is routed.

    Fields:
        upstreams, tiers: those of the sections of these names.
        default: destination of `auto` where no task and no rule decides; None is the first tier.
        tasks: destinations of declared tasks.
        rules: tried in their order, before the default.
        max_attempts: backends that one request may ask, fallbacks included.
    """

    upstreams: tuple[UpstreamConfig, ...] = ()
    tiers: tuple[TierConfig, ...] = ()
    default: str | None = None
    tasks: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[RuleConfig, ...] = ()
    max_attempts: int = 6

    def __post_init__(self) -> None:
        _check_once("tiers", (tier.name for tier in self.tiers))
        _check_once("routing.rules", (rule.name for rule in self.rules))
        if not 1 <= self.max_attempts <= 64:
            raise ConfigError("routing.max_attempts", self.max_attempts, "1 to 64")
        if not self.tiers:
            if self.upstreams or self.default or self.tasks or self.rules:
                raise ConfigError("tiers", "missing", "at least one tier, where there is routing")
            return
        known = self.destinations
        for where, name in self._references():
            if name not in known:
                raise ConfigError(where, name, f"one of {', '.join(known)}")
        for task in self.tasks:
            check_name(task, "routing.tasks")
        self._check_tiers()

    @property
    def destinations(self) -> tuple[str, ...]:
        """What requests may be sent to."""
        return tuple(tier.name for tier in self.tiers)

    @property
    def local_models(self) -> tuple[str, ...]:
        """Names of models that have to run here, each once."""
        backends = (backend for tier in self.tiers for backend in tier.backends)
        return tuple(dict.fromkeys(b.model for b in backends if b.upstream is None))

    def _references(self) -> Iterable[tuple[str, str]]:
        if self.default is not None:
            yield "routing.default", self.default
        for task, use in self.tasks.items():
            yield f"routing.tasks.{task}", use
        for rule in self.rules:
            yield f"routing.rules.{rule.name}.use", rule.use

    def _check_tiers(self) -> None:
        tiers = {tier.name: tier for tier in self.tiers}
        upstreams = {upstream.name for upstream in self.upstreams}
        for tier in self.tiers:
            where = f"tiers.{tier.name}"
            for backend in tier.backends:
                if backend.upstream is not None and backend.upstream not in upstreams:
                    allowed = f"one of {', '.join(upstreams) or 'no upstream: none is given'}"
                    raise ConfigError(f"{where}.backends", backend.upstream, allowed)
            seen = [tier.name]
            while (after := tiers[seen[-1]].fallback) is not None:
                if after not in tiers:
                    raise ConfigError(f"{where}.fallback", after, f"one of {', '.join(tiers)}")
                if after in seen:
                    shown = " -> ".join([*seen, after])
                    raise ConfigError(f"{where}.fallback", shown, "tiers that lead to an end")
                seen.append(after)


def check_name(name: object, where: str) -> None:
    """Raises: ConfigError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(where, name, f"names of {NAME_RULE}")


def _check_once(where: str, names: Iterable[str]) -> None:
    given = list(names)
    if len(set(given)) != len(given):
        raise ConfigError(where, ", ".join(given), "each name once")
