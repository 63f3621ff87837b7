"""The records of a workload: tasks, the tiers that may do them, what must hold.

In: values that `workload_file` has read and checked. Out: frozen records for profiler, plan and
report. A Call is what is really sent to a model: one task's prompt, or a prompt that answers
several tasks at once. Knows nothing of files, backends or prices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from decimal import Decimal
from typing import Any, Literal

from headrace.core.frozen import frozen
from headrace.core.structured_outputs import StructuredOutputs
from headrace.core.upstreams import UpstreamConfig, UpstreamKind
from headrace.planner.prompt_template import PromptTemplate

MetricKind = Literal[
    "exact", "label_f1", "json_fields", "rouge_l", "contains", "similarity", "judge"
]
FieldMatch = Literal["exact", "overlap", "set", "present"]
ArrivalKind = Literal["poisson", "gamma", "recorded"]
DAY_S = 86_400
# A tier that refuses it is asked for a choice in words alone: APIs elsewhere do not know it.
FORM_FIELD = "structured_outputs"
# bound: the lower end of the interval holds the floor. mean: the estimate alone does.
Evidence = Literal["bound", "mean"]


@frozen
class Sample:
    """A line of a task's data."""

    id: str
    fields: Mapping[str, Any]


@frozen(kw_only=True)
class Metric:
    """How an answer is scored, 0 to 1.

    Fields:
        kind: what is compared with the reference.
        reference: dotted path of a sample's field; "" where none is needed.
        answer_field: dotted path within an answer that is JSON; "" is the whole text.
        labels: those of label_f1; an answer that is none of them is wrong.
        fields: of json_fields, how each one is compared.
        model: the encoder of similarity; the tier that judges.
        question: what a judge is asked to prefer.
    """

    kind: MetricKind
    reference: str = ""
    answer_field: str = ""
    labels: tuple[str, ...] = ()
    fields: Mapping[str, FieldMatch] = field(default_factory=dict)
    model: str = ""
    question: str = ""


@frozen
class Judge:
    """A tier that compares answers of two tiers, beside the metric that decides. `question`: what
    it is asked to prefer.
    """

    tier: str
    question: str


@frozen
class Floor:
    """`least`: the score itself. `within`: at most so much below the baseline. None: no floor."""

    least: float | None = None
    within: float | None = None


@frozen
class LatencyObjective:
    """`percent` of the answers come within the limits. Units: seconds; None is no limit."""

    ttft_s: float | None = None
    e2e_s: float | None = None
    percent: float = 95.0

    def holds(self, ttft_s: float, e2e_s: float) -> bool:
        """Whether these, at `percent`, are within the limits."""
        pairs = ((self.ttft_s, ttft_s), (self.e2e_s, e2e_s))
        return all(limit is None or found_s <= limit for limit, found_s in pairs)


@frozen
class Arrivals:
    """How a day's calls come. `cv`: of gamma gaps, 1 is Poisson. Units: seconds."""

    kind: ArrivalKind = "poisson"
    cv: float = 1.0
    recorded_s: tuple[float, ...] = ()


@frozen
class TokenCounts:
    """Tokens of a call as a workload declares them."""

    input: int
    output: int


@frozen(kw_only=True)
class Call:
    """A prompt and whose answer it is.

    `outputs`: task -> dotted path in the answer, "" for all. `repeats`: the id of a sample whose
    prompt came before -> the first one's id, and how many came before it.
    """

    name: str
    outputs: Mapping[str, str]
    prompt: PromptTemplate
    system: PromptTemplate | None
    max_tokens: int
    samples: tuple[Sample, ...]
    form: StructuredOutputs | None = None
    repeats: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def is_merged(self) -> bool:
        return len(self.outputs) > 1

    def first_alike(self, sample: str) -> str:
        """The id of the first sample with the prompt that this one has."""
        return self.repeats.get(sample, (sample, 0))[0]


@frozen(kw_only=True)
class Task:
    """A kind of work. `can_wait_s`: 0 is now. `shorter`: smaller max_tokens to try."""

    name: str
    volume_per_day: int
    metric: Metric
    call: Call
    judge: Judge | None = None
    floor: Floor = Floor()
    latency: LatencyObjective | None = None
    arrivals: Arrivals = Arrivals()
    can_wait_s: float = 0.0
    shorter: tuple[int, ...] = ()
    tokens: TokenCounts | None = None


@frozen(kw_only=True)
class Tier:
    """Where calls can run.

    Fields:
        model: its name here, or at `url`.
        url: an API elsewhere, `api_kind` which one; None is the engine of this machine.
        api_key: `env:NAME`, the environment variable with its key.
        refuses: request fields that it does not take.
        provider, price_model: whose price holds, in the price book.
        usd_per_hour, utilization: of an own machine, whose price follows from measured speed.
        off_peak_utilization: the share of busy time that work which can wait brings it to.
        stands_in: the tier whose measured tokens, times and quality are taken for this one's.
        cache_floor_tokens: shortest prefix that its provider caches.
    """

    name: str
    model: str
    url: str | None = None
    api_kind: UpstreamKind = "openai"
    api_key: str | None = None
    refuses: tuple[str, ...] = ()
    provider: str = "local"
    price_model: str = ""
    usd_per_hour: Decimal | None = None
    utilization: Decimal = Decimal(1)
    off_peak_utilization: Decimal | None = None
    stands_in: str | None = None
    cache_floor_tokens: int = 1024

    @property
    def is_local(self) -> bool:
        return self.url is None and self.stands_in is None

    @property
    def upstream(self) -> UpstreamConfig:
        """How a model elsewhere is reached. Raises: ConfigError."""
        return UpstreamConfig(
            name=self.name,
            url=self.url or "",
            models=(self.model,),
            kind=self.api_kind,
            api_key=self.api_key,
            provider=self.provider,
            refuses=tuple(name for name in self.refuses if name != FORM_FIELD),
        )

    @property
    def takes_choices(self) -> bool:
        """Whether answers can be held to one of some words."""
        return FORM_FIELD not in self.refuses

    @property
    def measured_on(self) -> str:
        """The tier whose measurements are used for this one."""
        return self.stands_in or self.name


@frozen
class Scenario:
    """A question: everything on `baseline` today, `tiers` to choose from."""

    name: str
    baseline: str
    tiers: tuple[str, ...]


@frozen(kw_only=True)
class Workload:
    """All of it. `digest` is the file's; `target_saving` a share of the baseline's cost."""

    name: str
    note: str
    tasks: Mapping[str, Task]
    merged: tuple[Call, ...]
    tiers: Mapping[str, Tier]
    scenarios: tuple[Scenario, ...]
    target_saving: float | None
    evidence: Evidence
    confidence: float
    digest: str

    @property
    def calls(self) -> tuple[Call, ...]:
        """Every prompt that is worth measuring."""
        return (*(task.call for task in self.tasks.values()), *self.merged)

    def scorer(self, name: str) -> str:
        """What scores of an encoder or judge are kept under: its model, wherever that is."""
        tier = self.tiers.get(name)
        if tier is None or tier.url is None:
            return name if tier is None else tier.model
        return f"{tier.model} at {tier.url}"

    @property
    def compared_tiers(self) -> tuple[tuple[str, str], ...]:
        """Measured tiers that a scenario sets beside its baseline, that first; each pair once."""
        pairs = (
            (self.tiers[scenario.baseline].measured_on, self.tiers[name].measured_on)
            for scenario in self.scenarios
            for name in scenario.tiers
        )
        return tuple(dict.fromkeys(pair for pair in pairs if pair[0] != pair[1]))

    def call(self, name: str) -> Call:
        return next(call for call in self.calls if call.name == name)
