"""Tiers and how requests find theirs, as settings.

In: values of a settings file. Out: frozen records whose names fit together. A *destination* is what
a request may be sent to: a tier, or a cascade of them. Holds no backend and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any, Literal, get_args

from headrace.core.config_checks import check_known
from headrace.core.errors import ConfigError, InWords
from headrace.core.frozen import frozen
from headrace.core.routing_options import (
    HedgeConfig,
    LearnedConfig,
    SelfCheckConfig,
    SemanticConfig,
    ShadowConfig,
    check_name,
)
from headrace.core.upstreams import UpstreamConfig

BackendOrder = Literal["first", "least-busy"]


@frozen(kw_only=True)
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


@frozen(kw_only=True)
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
        hedge: asks a second backend where the first one is slow; None never does.
    """

    name: str
    backends: tuple[TierBackendConfig, ...]
    order: BackendOrder = "first"
    fallback: str | None = None
    note: str = ""
    ttft_target_s: float | None = None
    hedge: HedgeConfig | None = None

    def __post_init__(self) -> None:
        where = f"tiers.{self.name}"
        check_name(self.name, "tiers")
        if not self.backends:
            raise ConfigError(f"{where}.backends", InWords("empty"), "at least one backend")
        names = [backend.name for backend in self.backends]
        if len(set(names)) != len(names):
            raise ConfigError(f"{where}.backends", ", ".join(names), "each backend once")
        if self.order not in get_args(BackendOrder):
            raise ConfigError(f"{where}.order", self.order, "one of first, least-busy")
        target_s = self.ttft_target_s
        if target_s is not None and not 0 < target_s <= 3600:
            raise ConfigError(f"{where}.ttft_target_s", target_s, "a number above 0, at most 3600")
        if self.hedge is not None and len(names) < 2:
            raise ConfigError(f"{where}.hedge", names[0], "a tier of at least two backends")


@frozen(kw_only=True)
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
        for key in ("min_input_tokens", "max_input_tokens"):
            limit = getattr(self, key)
            if limit is not None and limit < 0:
                where = f"routing.rules.{self.name}.{key}"
                allowed = "a number of tokens, 0 or more, or left out for no limit"
                raise ConfigError(where, limit, allowed)


@frozen(kw_only=True)
class CascadeConfig:
    """A destination that asks cheap tiers first, and the last one when their answers will not do.

    Every tier that answered is paid. An answer is seen when it is known to do: streams of early
    tiers come in one piece.

    Fields:
        name: how tasks, rules and callers name it.
        tiers: at least two, in the order in which they are asked.
        min_mean_logprob: an answer whose tokens were less likely on average will not do; its
            backends have to give logprobs.
        check_form: neither will one that is empty or has not the form that was asked for.
        self_check: nor one of which a model does not say that it is right; asked last.
    """

    name: str
    tiers: tuple[str, ...]
    min_mean_logprob: float | None = None
    check_form: bool = True
    self_check: SelfCheckConfig | None = None

    def __post_init__(self) -> None:
        where = f"routing.cascades.{self.name}"
        check_name(self.name, "routing.cascades")
        if len(self.tiers) < 2 or len(set(self.tiers)) != len(self.tiers):
            shown = ", ".join(self.tiers)
            raise ConfigError(f"{where}.tiers", shown, "at least two tiers, each once")
        least = self.min_mean_logprob
        if least is not None and not -100 <= least < 0:
            raise ConfigError(f"{where}.min_mean_logprob", least, "a number from -100 to below 0")
        if least is None and not self.check_form and self.self_check is None:
            allowed = "min_mean_logprob, check_form, self_check, or several"
            raise ConfigError(where, "without a check", allowed)


@frozen(kw_only=True)
class CacheConfig:
    """Answers are kept and given again to exactly the same request of the same tenant.

    Never with tools. An answer from it costs nothing.

    Fields:
        ttl_s: how long one is kept; a request may ask for less.
        max_bytes: all of them together, about.
        max_entries: how many of them.
        semantic: gives them to questions that mean the same, too; None does not.
    """

    ttl_s: float = 3600.0
    max_bytes: int = 64 * 1024**2
    max_entries: int = 10_000
    semantic: SemanticConfig | None = None

    def __post_init__(self) -> None:
        for name, low, high in (("ttl_s", 0.001, 1e9), ("max_bytes", 1024, 2**44)):
            value = getattr(self, name)
            if not low <= value <= high:
                allowed = f"a number from {low:g} to {high:g}"
                raise ConfigError(f"routing.cache.{name}", value, allowed)
        if not 1 <= self.max_entries <= 2**31:
            raise ConfigError("routing.cache.max_entries", self.max_entries, "1 to 2147483648")


@frozen(kw_only=True)
class RoutingConfig:
    """Tiers, upstreams and policies.

    Fields:
        upstreams, tiers: those of the sections of these names.
        default: destination of `auto` where no task and no rule decides; None is the first tier.
        tasks: destinations of declared tasks.
        rules: tried in their order, before the default.
        cascades: destinations beside the tiers.
        learned: destinations too, which choose a tier by a model of the request.
        shadow: compares a share of answers with another tier's; without it none.
        cache: keeps answers to `auto` names; without it none is kept.
        max_attempts: backends that one request may ask, fallbacks included.
    """

    upstreams: tuple[UpstreamConfig, ...] = ()
    tiers: tuple[TierConfig, ...] = ()
    default: str | None = None
    tasks: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[RuleConfig, ...] = ()
    cascades: tuple[CascadeConfig, ...] = ()
    learned: tuple[LearnedConfig, ...] = ()
    shadow: ShadowConfig | None = None
    cache: CacheConfig | None = None
    max_attempts: int = 6

    def __post_init__(self) -> None:
        _check_once("tiers, routing.cascades and routing.learned", self.destinations)
        _check_once("routing.rules", (rule.name for rule in self.rules))
        if not 1 <= self.max_attempts <= 64:
            raise ConfigError("routing.max_attempts", self.max_attempts, "1 to 64")
        if not self.tiers:
            raise ConfigError(
                "tiers", InWords("empty"), "at least one tier, where there is routing"
            )
        for where, name in self._references():
            check_known(where, name, self.destinations)
        for task in self.tasks:
            check_name(task, "routing.tasks")
        self._check_tiers()

    @property
    def destinations(self) -> tuple[str, ...]:
        """What requests may be sent to."""
        names = [entry.name for entry in self.tiers]
        names += [entry.name for entry in self.cascades]
        return (*names, *(entry.name for entry in self.learned))

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

    def _tier_references(self) -> Iterable[tuple[str, str]]:
        for cascade in self.cascades:
            if cascade.self_check is not None and cascade.self_check.tier is not None:
                yield f"routing.cascades.{cascade.name}.self_check.tier", cascade.self_check.tier
        for entry in self.learned:
            yield f"routing.learned.{entry.name}.cheap", entry.cheap
            yield f"routing.learned.{entry.name}.premium", entry.premium
        if self.shadow is not None:
            yield "routing.shadow.use", self.shadow.use
            for name in self.shadow.of:
                yield "routing.shadow.of", name

    def _check_tiers(self) -> None:
        tiers = {tier.name: tier for tier in self.tiers}
        upstreams = [upstream.name for upstream in self.upstreams]
        for cascade in self.cascades:
            for name in cascade.tiers:
                check_known(f"routing.cascades.{cascade.name}.tiers", name, tiers)
            self._check_logprobs(cascade)
        for where, name in self._tier_references():
            check_known(where, name, tiers)
        for tier in self.tiers:
            where = f"tiers.{tier.name}"
            for backend in tier.backends:
                if backend.upstream is not None:
                    check_known(f"{where}.backends", backend.upstream, upstreams)
            seen = [tier.name]
            while (after := tiers[seen[-1]].fallback) is not None:
                check_known(f"{where}.fallback", after, tiers)
                if after in seen:
                    shown = " -> ".join([*seen, after])
                    raise ConfigError(f"{where}.fallback", shown, "tiers that lead to an end")
                seen.append(after)

    def _check_logprobs(self, cascade: CascadeConfig) -> None:
        """Raises: ConfigError for a check that an early tier can never pass."""
        silent = {entry.name for entry in self.upstreams if entry.kind == "anthropic"}
        if cascade.min_mean_logprob is None:
            return
        for tier in self.tiers:
            used = {backend.upstream for backend in tier.backends} & silent
            if tier.name in cascade.tiers[:-1] and used:
                raise ConfigError(
                    f"routing.cascades.{cascade.name}.min_mean_logprob",
                    cascade.min_mean_logprob,
                    f"nothing where {tier.name} is at Anthropic's API, which gives no logprobs",
                )


def _check_once(where: str, names: Iterable[str]) -> None:
    given = list(names)
    if len(set(given)) != len(given):
        raise ConfigError(where, ", ".join(given), "each name once")
