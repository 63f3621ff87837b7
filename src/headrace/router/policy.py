"""Which destination a request goes to, and why: declared task first, then rules, then the default.

In: the model that a request names, its declared task, its facts. Out: a Decision. Knows no backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.core.errors import InvalidParameter
from headrace.core.request import GenerateRequest
from headrace.core.routing_config import RoutingConfig, RuleConfig
from headrace.router.features import RequestFacts, read_facts

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a request goes. `tier` is the first one that is asked."""

    tier: str
    reason: str
    task: str | None = None
    confidence: float | None = None


class Policy:
    """The settings of `routing`, asked per request."""

    def __init__(self, config: RoutingConfig) -> None:
        self._config = config
        self._default = config.default or config.tiers[0].name

    def model_names(self) -> Sequence[str]:
        """Names that callers may ask for: `auto`, `auto/TASK`, `auto:DESTINATION`."""
        tasks = (f"{AUTO}/{task}" for task in self._config.tasks)
        named = (f"{AUTO}:{name}" for name in self._config.destinations)
        return (AUTO, *tasks, *named)

    def default_of(self, name: str) -> str:
        """The destination of a name where nothing else is known of a request."""
        if name.startswith(f"{AUTO}:"):
            return name.removeprefix(f"{AUTO}:")
        if name.startswith(f"{AUTO}/"):
            return self._config.tasks[name.removeprefix(f"{AUTO}/")]
        return self._default

    def decide(self, request: GenerateRequest) -> Decision:
        """Raises: InvalidParameter for a task that nobody defines."""
        name = request.model
        if name.startswith(f"{AUTO}:"):
            return Decision(self.default_of(name), "tier", request.task)
        task = name.removeprefix(f"{AUTO}/") if name != AUTO else request.task
        if task is not None:
            if task not in self._config.tasks:
                known = ", ".join(self._config.tasks) or "none: routing.tasks is empty"
                raise InvalidParameter("task", task, known)
            return Decision(self._config.tasks[task], "task", task)
        if self._config.rules:
            facts = read_facts(request)
            for rule in self._config.rules:
                if holds(rule, facts):
                    return Decision(rule.use, f"rule {rule.name}")
        return Decision(self._default, "default")


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
