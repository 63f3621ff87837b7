"""Router: a Backend made of Backends.

In: requests for `auto`, a declared task or a destination, or for a model that runs here. Out: the
answer of a backend of the tier that the policy names, with the reason. Belongs to one event loop.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from headrace.core.activity import Inspectable, ModelActivity
from headrace.core.backend import Backend, Health, ModelControl, ModelInfo, ModelText
from headrace.core.clock import Clock
from headrace.core.errors import ModelNotFound, UnsupportedParameter
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest
from headrace.core.routing_config import RoutingConfig
from headrace.core.telemetry import MetricSink
from headrace.router.health import HealthBook
from headrace.router.policy import Policy
from headrace.router.response_cache import ResponseCache
from headrace.router.routed_stream import RoutedStream, RouterParts
from headrace.router.tier import Member, Tier


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
    ) -> None:
        self._policy, self._local = Policy(config), local
        self.health_book = HealthBook(clock)
        self._tiers = {tier.name: tier for tier in tiers}
        cache = None if config.cache is None else ResponseCache(config.cache, clock)
        self._parts = RouterParts(
            self._tiers, self.health_book, clock, sink, config.max_attempts, cache
        )
        self._names = frozenset(self._policy.model_names())

    def models(self) -> Sequence[ModelInfo]:
        """`auto`, tasks and destinations, then the models that run here."""
        routed = [self._describe(name) for name in self._policy.model_names()]
        local = () if self._local is None else self._local.models()
        return (*routed, *local)

    def health(self) -> Health:
        """Ready while one backend is: what comes finds it."""
        found = [m.backend.health() for tier in self._tiers.values() for m in tier.members]
        for status in ("ready", "starting"):
            for health in found:
                if health.status == status:
                    return health
        return next((health for health in found if health.is_recovering), found[0])

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
        if request.pooling is not None:
            raise UnsupportedParameter("model", f"{request.model!r} gives answers, no vectors.")
        return RoutedStream(self._parts, request, self._policy.decide(request))

    def payable(self, request: GenerateRequest) -> Sequence[ModelInfo]:
        """See core.routing.Routes."""
        if request.model not in self._names:
            return [info for info in self.models() if info.name == request.model]
        members: dict[str, Member] = {}
        decision = self._policy.decide(request)
        for early in decision.early_tiers:
            members |= {member.name: member for member in self._tiers[early].members}
        name: str | None = decision.last_tier
        while name is not None:
            members |= {member.name: member for member in self._tiers[name].members}
            name = self._tiers[name].config.fallback
        # Which of them are asked is decided by their health, later.
        return [member.info for member in members.values()]

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

    def _describe(self, name: str) -> ModelInfo:
        """A name as a model: what holds for each backend of its tier."""
        tiers = [self._tiers[tier] for tier in self._policy.tiers_of(name)]
        infos = [member.info for tier in tiers for member in tier.members]
        variables = frozenset.intersection(*(info.template_variables for info in infos))
        return replace(
            infos[0],
            name=name,
            root=tiers[0].name,
            max_model_len=max(info.max_model_len for info in infos),
            has_chat_template=all(info.has_chat_template for info in infos),
            template_variables=variables,
            vector_size=0,
        )

    def _first(self, name: str) -> Member:
        return self._tiers[self._policy.tiers_of(name)[0]].members[0]

    def _need_local(self, model: str) -> Backend:
        if self._local is None:
            raise ModelNotFound(model, tuple(sorted(self._names)))
        return self._local

    def _control(self, name: str) -> ModelControl:
        if not isinstance(self._local, ModelControl):
            raise ModelNotFound(name, tuple(sorted(self._names)))
        return self._local
