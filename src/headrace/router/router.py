"""Router: a Backend made of Backends.

In: requests for `auto`, a declared task or a destination, or for a model that runs here. Out: the
answer of a backend of the tier that the policy names, with the reason. Belongs to one event loop.
"""

from __future__ import annotations

import operator
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import field, replace
from functools import partial

from headrace.core.activity import Inspectable, ModelActivity
from headrace.core.backend import (
    AdapterControl,
    Backend,
    EngineControl,
    Health,
    ModelControl,
    ModelInfo,
    ModelText,
    PauseMode,
    health_of,
)
from headrace.core.clock import Clock
from headrace.core.errors import InvalidParameter, ModelNotFound, UnsupportedParameter
from headrace.core.frozen import frozen
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest
from headrace.core.routing import Payable
from headrace.core.routing_config import RoutingConfig
from headrace.core.telemetry import MetricSink
from headrace.router.health import HealthBook
from headrace.router.hedging import HedgePolicy
from headrace.router.kept_stream import KeptParts, KeptStream
from headrace.router.policy import Policy
from headrace.router.response_cache import ResponseCache
from headrace.router.route_model import RouteModel
from headrace.router.routed_stream import RoutedStream, RouterParts
from headrace.router.self_check import dearest_question
from headrace.router.semantic_cache import SemanticCache, TextIndex
from headrace.router.shadow import ShadowAnswer, ShadowLog, Shadows
from headrace.router.tier import Member, Tier


@frozen
class RouterOptions:
    """What only some routers have; each is there where the settings want it.

    `models` are those of learned destinations. `ask_shadow` asks a backend in the name of nobody
    who calls, and `shadow_log` keeps what comes of it. `index` finds texts that mean the same.
    """

    models: Mapping[str, RouteModel] = field(default_factory=dict)
    ask_shadow: Callable[[Backend, GenerateRequest], Awaitable[ShadowAnswer]] | None = None
    shadow_log: ShadowLog | None = None
    index: TextIndex | None = None


class Router:
    """See core.backend.Backend, core.routing.Routes, and what `local` is besides a Backend.

    `local` has the models of this machine, which may be asked for by their names too.
    """

    def __init__(
        self,
        config: RoutingConfig,
        tiers: Sequence[Tier],
        clock: Clock,
        sink: MetricSink,
        local: Backend | None = None,
        options: RouterOptions | None = None,
    ) -> None:
        options = options or RouterOptions()
        self._policy, self._local = Policy(config, options.models), local
        self.health_book = HealthBook(clock)
        self._tiers = {tier.name: tier for tier in tiers}
        hedges = {
            tier.name: HedgePolicy(tier.hedge) for tier in config.tiers if tier.hedge is not None
        }
        self._parts = RouterParts(
            self._tiers, self.health_book, clock, sink, config.max_attempts, hedges
        )
        self._kept = self._make_kept(config, options)
        self._names = frozenset(self._policy.model_names())
        # What a name is as a model, and what it was made of: every call asks for it several times.
        self._described: dict[str, tuple[tuple[ModelInfo, ...], ModelInfo]] = {}

    def models(self) -> Sequence[ModelInfo]:
        """`auto`, tasks and destinations, then the models that run here."""
        routed = [self._describe(name) for name in self._policy.model_names()]
        local = () if self._local is None else self._local.models()
        return (*routed, *local)

    def health(self) -> Health:
        """Ready while one backend is: what comes finds it."""
        return _best([m.backend.health() for tier in self._tiers.values() for m in tier.members])

    def health_of(self, name: str) -> Health | None:
        """See core.backend.ModelHealths. A destination is as the best that may serve it."""
        if name not in self._names:
            return health_of(self._need_local(name), name)
        tiers = [self._tiers[tier] for tier in self._policy.tiers_of(name)]
        for tier in tiers:
            after = tier.config.fallback
            if after is not None and self._tiers[after] not in tiers:
                tiers.append(self._tiers[after])
        members = [member for tier in tiers for member in tier.members]
        return _best([health_of(m.backend, m.model) or Health("ready") for m in members])

    def text(self, model: str) -> ModelText:
        """The text side of a model that runs here, or of a tier whose first one does.

        Raises: ModelNotFound, UnsupportedParameter.
        """
        if model in self._names:
            member = self._first(model)
            return member.backend.text(member.model)
        for tier in self._tiers.values():
            for member in tier.members:
                if member.model == model:
                    return member.backend.text(model)
        return self._need_local(model).text(model)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        """See core.backend.Backend. Its stream says where it comes from."""
        if request.model not in self._names:
            return await self._need_local(request.model).generate(request)
        # First, so that no refusal leaves a task in the ledger that nobody declared.
        decision = self._policy.decide(request)
        if request.pooling is not None:
            raise UnsupportedParameter("model", f"{request.model!r} gives answers, no vectors.")
        stream = RoutedStream(self._parts, request, decision)
        kept = self._kept
        return stream if kept is None else KeptStream(kept, request, decision, stream)

    def payable(self, request: GenerateRequest) -> Sequence[Payable]:
        """See core.routing.Routes. Who is asked is decided by their health, later."""
        if request.model not in self._names:
            known = (info for info in self.models() if info.name == request.model)
            return [Payable(info, request) for info in known]
        decision = self._policy.decide(request)
        names = dict.fromkeys(decision.early_tiers)
        name: str | None = decision.last_tier
        while name is not None:
            names[name] = None
            name = self._tiers[name].config.fallback
        members = {each.name: each for name in names for each in self._tiers[name].members}
        found = [part for member in members.values() for part in _tries(member, request)]
        for name in names:
            # Of an answer that is sent when it is whole, who was outrun may be asked again.
            is_whole = request.is_whole or name in decision.early_tiers
            if is_whole and name in self._parts.hedges:
                prompt = _prompt_of(request)
                found += [Payable(each.info, prompt) for each in self._tiers[name].members]
        check = None if decision.cascade is None else decision.cascade.self_check
        question = None if check is None else dearest_question(request, check)
        if check is not None and question is not None:
            for early in decision.early_tiers:
                tier = self._tiers[check.tier or early]
                found += [part for member in tier.members for part in _tries(member, question)]
        return found

    async def activity(self) -> Sequence[ModelActivity]:
        """See core.activity.Inspectable: of this machine."""
        return await self._local.activity() if isinstance(self._local, Inspectable) else ()

    def loaded(self) -> Sequence[str]:
        """See core.backend.ModelControl."""
        return self._local.loaded() if isinstance(self._local, ModelControl) else ()

    async def load(self, name: str) -> None:
        """See core.backend.ModelControl."""
        await self._control(name).load(name)

    async def unload(self, name: str) -> None:
        """See core.backend.ModelControl."""
        await self._control(name).unload(name)

    async def replace(self, name: str) -> None:
        """See core.backend.ModelControl."""
        await self._control(name).replace(name)

    async def pause(self, name: str | None, mode: PauseMode, *, clear_cache: bool = True) -> bool:
        """See core.backend.EngineControl: of this machine."""
        return await self._engines(name).pause(name, mode, clear_cache=clear_cache)

    async def resume(self, name: str | None) -> None:
        """See core.backend.EngineControl."""
        await self._engines(name).resume(name)

    def is_paused(self, name: str | None) -> bool:
        """See core.backend.EngineControl. What is elsewhere is not paused."""
        if not isinstance(self._local, EngineControl):
            return False
        known = [info.name for info in self._local.models()]
        return (name is None or name in known) and self._local.is_paused(name)

    async def reset_prefix_cache(self, name: str | None, *, reset_running: bool = False) -> bool:
        """See core.backend.EngineControl."""
        return await self._engines(name).reset_prefix_cache(name, reset_running=reset_running)

    async def load_adapter(
        self, name: str, path: str, *, base: str | None = None, is_replacing: bool = False
    ) -> ModelInfo:
        """See core.backend.AdapterControl: over a model of this machine."""
        if name in self._names:
            raise InvalidParameter("lora_name", name, "a name that no destination has")
        control = self._adapters(base or name)
        return await control.load_adapter(name, path, base=base, is_replacing=is_replacing)

    async def unload_adapter(self, name: str) -> None:
        """See core.backend.AdapterControl."""
        await self._adapters(name).unload_adapter(name)

    def close(self) -> None:
        """End what goes on beside calls."""
        if self._kept is not None and self._kept.shadows is not None:
            self._kept.shadows.close()

    def _make_kept(self, config: RoutingConfig, options: RouterOptions) -> KeptParts | None:
        """What becomes of answers beside being sent; None where nothing does."""
        clock, sink = self._parts.clock, self._parts.sink
        cache = None if config.cache is None else ResponseCache(config.cache, clock)
        semantic: SemanticCache | None = None
        wanted = None if config.cache is None else config.cache.semantic
        if cache is not None and wanted is not None and options.index is not None:
            semantic = SemanticCache(wanted, cache, options.index)
        shadows: Shadows | None = None
        if config.shadow is not None and options.ask_shadow and options.shadow_log:
            ask = partial(options.ask_shadow, self)
            shadows = Shadows(config.shadow, ask, options.shadow_log, clock, sink)
        if cache is None and shadows is None:
            return None
        return KeptParts(clock, sink, cache, semantic, shadows)

    def _describe(self, name: str) -> ModelInfo:
        """A name as a model: what holds for each backend of its tier."""
        tiers = [self._tiers[tier] for tier in self._policy.tiers_of(name)]
        infos = tuple(member.info for tier in tiers for member in tier.members)
        known, made = self._described.get(name, ((), None))
        if made is not None and all(map(operator.is_, known, infos)):
            return made
        variables = frozenset.intersection(*(info.template_variables for info in infos))
        made = replace(
            infos[0],
            name=name,
            root=tiers[0].name,
            max_model_len=max(info.max_model_len for info in infos),
            has_chat_template=all(info.has_chat_template for info in infos),
            template_variables=variables,
            reads_message_names=all(info.reads_message_names for info in infos),
            vector_size=0,
            keeps_answers=self._kept is not None and self._kept.cache is not None,
        )
        self._described[name] = infos, made
        return made

    def _first(self, name: str) -> Member:
        return self._tiers[self._policy.tiers_of(name)[0]].members[0]

    def _need_local(self, model: str) -> Backend:
        if self._local is None:
            raise ModelNotFound(model, tuple(sorted(self._names)))
        return self._local

    def _engines(self, name: str | None) -> EngineControl:
        if not isinstance(self._local, EngineControl):
            raise ModelNotFound(name or "of this machine", tuple(sorted(self._names)))
        return self._local

    def _adapters(self, name: str) -> AdapterControl:
        if not isinstance(self._local, AdapterControl):
            raise ModelNotFound(name, tuple(sorted(self._names)))
        return self._local

    def _control(self, name: str) -> ModelControl:
        if not isinstance(self._local, ModelControl):
            raise ModelNotFound(name, tuple(sorted(self._names)))
        return self._local


def _tries(member: Member, request: GenerateRequest) -> list[Payable]:
    """An answer, and the tries before it that brought none and may be billed for their prompts."""
    info = member.info
    return [Payable(info, request), *[Payable(info, _prompt_of(request))] * info.max_retries]


def _prompt_of(request: GenerateRequest) -> GenerateRequest:
    """What costs no less than reading the prompt of a request."""
    sampling = replace(request.sampling, max_tokens=1, min_tokens=0, n=1)
    return replace(request, sampling=sampling)


def _best(found: Sequence[Health]) -> Health:
    """Of backends that stand for each other."""
    for status in ("ready", "starting"):
        for health in found:
            if health.status == status:
                return health
    return next((health for health in found if health.is_recovering), found[0])
