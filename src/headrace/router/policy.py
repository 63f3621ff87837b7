"""Which destination a request goes to, and why: declared task first, then rules, then the default.

In: the model that a request names, its declared task, its facts. Out: a Decision. Knows no backend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace.core.errors import UndeclaredTask
from headrace.core.frozen import frozen
from headrace.core.request import GenerateRequest
from headrace.core.routing_config import CascadeConfig, RoutingConfig, RuleConfig
from headrace.router.features import RequestFacts, read_facts
from headrace.router.route_model import RouteModel

AUTO = "auto"


@frozen
class Decision:
    """Where a request goes. `tier` is the first one that is asked; `cascade` has the others."""

    tier: str
    reason: str
    task: str | None = None
    cascade: CascadeConfig | None = None

    @property
    def early_tiers(self) -> tuple[str, ...]:
        """Those whose answers are looked at before they are sent."""
        return () if self.cascade is None else self.cascade.tiers[:-1]

    @property
    def last_tier(self) -> str:
        """The one whose answer is sent whatever it is."""
        return self.tier if self.cascade is None else self.cascade.tiers[-1]


class Policy:
    """The settings of `routing`, asked per request. `models` are those of learned destinations."""

    def __init__(
        self, config: RoutingConfig, models: Mapping[str, RouteModel] | None = None
    ) -> None:
        self._config, self._models = config, models or {}
        self._learned = {entry.name: entry for entry in config.learned}
        self._default = config.default or config.tiers[0].name
        self._cascades = {cascade.name: cascade for cascade in config.cascades}

    def model_names(self) -> Sequence[str]:
        """Names that callers may ask for: `auto`, `auto/TASK`, `auto:DESTINATION`."""
        tasks = (f"{AUTO}/{task}" for task in self._config.tasks)
        named = (f"{AUTO}:{name}" for name in self._config.destinations)
        return (AUTO, *tasks, *named)

    def tiers_of(self, name: str) -> Sequence[str]:
        """The tiers of a name where nothing else is known of a request."""
        destination = self._destination_of(name)
        if destination in self._learned:
            return self._learned[destination].cheap, self._learned[destination].premium
        cascade = self._cascades.get(destination)
        return (destination,) if cascade is None else cascade.tiers

    def _destination_of(self, name: str) -> str:
        if name.startswith(f"{AUTO}:"):
            return name.removeprefix(f"{AUTO}:")
        if name.startswith(f"{AUTO}/"):
            return self._config.tasks[name.removeprefix(f"{AUTO}/")]
        return self._default

    def decide(self, request: GenerateRequest) -> Decision:
        """Raises: UndeclaredTask."""
        name = request.model
        if name.startswith(f"{AUTO}:"):
            return self._go(request, self._destination_of(name), "tier", request.task)
        task = name.removeprefix(f"{AUTO}/") if name != AUTO else request.task
        if task is not None:
            if task not in self._config.tasks:
                known = ", ".join(self._config.tasks) or "none: routing.tasks is empty"
                raise UndeclaredTask("task", task, known)
            return self._go(request, self._config.tasks[task], "task", task)
        if self._config.rules:
            facts = read_facts(request)
            for rule in self._config.rules:
                if holds(rule, facts):
                    return self._go(request, rule.use, f"rule {rule.name}")
        return self._go(request, self._default, "default")

    def _go(
        self, request: GenerateRequest, destination: str, reason: str, task: str | None = None
    ) -> Decision:
        learned = self._learned.get(destination)
        if learned is not None:
            model = self._models[destination]
            least = model.threshold if learned.threshold is None else learned.threshold
            score = model.score(read_facts(request))
            is_hard = score > least
            compared = f"{score:.3f} {'above' if is_hard else 'not above'} {least:.3f}"
            tier = learned.premium if is_hard else learned.cheap
            return Decision(tier, f"{reason}, learned {destination}: {compared}", task)
        cascade = self._cascades.get(destination)
        if cascade is None:
            return Decision(destination, reason, task)
        return Decision(cascade.tiers[0], f"{reason}, cascade {destination}", task, cascade)


def holds(rule: RuleConfig, facts: RequestFacts) -> bool:
    """Whether all that a rule says is true."""
    least, most = rule.min_input_tokens, rule.max_input_tokens
    text = facts.text.lower()
    return (
        (least is None or facts.num_input_tokens >= least)
        and (most is None or facts.num_input_tokens <= most)
        and rule.has_tools in (None, facts.has_tools)
        and rule.has_form in (None, facts.has_form)
        and rule.has_code in (None, facts.has_code)
        and (not rule.languages or bool(facts.languages & set(rule.languages)))
        and (not rule.words or any(word.lower() in text for word in rule.words))
    )
