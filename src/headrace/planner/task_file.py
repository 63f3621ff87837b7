"""Tasks of a workload file: prompts, data, metrics, floors, objectives, merged calls.

In: maps of decoded YAML and the folder that paths start from. Out: Tasks and Calls whose templates
and references fit every line of their data. Raises: ConfigError.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from headrace.core.errors import ConfigError, InvalidParameter, InWords, RequestError
from headrace.core.near_names import did_you_mean
from headrace.core.structured_outputs import StructuredOutputs
from headrace.planner.entry import Entry
from headrace.planner.overlap import normalized
from headrace.planner.prompt_template import MissingField, PromptTemplate, as_text, look_up
from headrace.planner.quality import phrases
from headrace.planner.sample_file import read_samples, read_text
from headrace.planner.workload import (
    ArrivalKind,
    Arrivals,
    Call,
    FieldMatch,
    Floor,
    Judge,
    LatencyObjective,
    Metric,
    MetricKind,
    Sample,
    Task,
    TokenCounts,
)

_TASK = (
    *("data", "prompt", "system", "max_tokens", "json_schema", "choices", "metric", "judge"),
    *("floor", "latency", "volume_per_day", "arrivals", "can_wait_s", "shorter", "tokens"),
)
_MERGED = ("prompt", "system", "max_tokens", "json_schema", "outputs")
_METRIC = ("kind", "reference", "answer_field", "labels", "fields", "model", "question")
_JUDGE = ("tier", "question")
_QUESTION = "Which answer is more faithful, complete and well written?"
MAX_TOKENS = 1_000_000


@dataclass(slots=True)
class TaskReader:
    """Reads tasks; a data file that several tasks name is read once."""

    folder: Path
    _data: dict[Path, tuple[Sample, ...]] = field(default_factory=dict)

    def read_task(self, name: str, tree: Any) -> Task:
        """One task."""
        entry = Entry(tree, f"tasks.{name}", _TASK)
        samples = self._samples(entry)
        metric = _read_metric(entry)
        _check_paths(entry.place("metric.reference"), [metric.reference], samples)
        _check_references(entry.place("metric.reference"), metric, samples)
        call = _read_call(entry, name, {name: ""}, samples)
        return Task(
            name=name,
            volume_per_day=entry.whole("volume_per_day", 1, 10**10),
            metric=metric,
            call=call,
            judge=_read_judge(entry),
            floor=_read_floor(entry),
            latency=_read_latency(entry),
            arrivals=self._arrivals(entry),
            can_wait_s=float(entry.number("can_wait_s", 0, 10**7, 0)),
            shorter=_read_shorter(entry, call.max_tokens),
            tokens=_read_tokens(entry),
        )

    def read_merged(self, name: str, tree: Any, tasks: Mapping[str, Task]) -> Call:
        """One prompt for several tasks, whose answer is an object with a field for each."""
        entry = Entry(tree, f"merged.{name}", _MERGED)
        outputs = entry.parts("outputs")
        for task, path in outputs.items():
            if task not in tasks or not isinstance(path, str) or not path:
                allowed = f"tasks ({', '.join(tasks)}) with a field of the answer each"
                raise ConfigError(entry.place("outputs"), {task: path}, allowed)
        merged = [tasks[task] for task in outputs]
        if len(merged) < 2:
            raise entry.refuse("outputs", "at least two tasks")
        if len({(task.volume_per_day, id(task.call.samples)) for task in merged}) > 1:
            raise entry.refuse("outputs", "tasks with the same data and volume_per_day")
        return _read_call(entry, name, dict(outputs), merged[0].call.samples)

    def _samples(self, entry: Entry) -> tuple[Sample, ...]:
        path = (self.folder / entry.text("data")).resolve()
        if path not in self._data:
            self._data[path] = read_samples(path, entry.place("data"))
        return self._data[path]

    def _arrivals(self, entry: Entry) -> Arrivals:
        if "arrivals" not in entry:
            return Arrivals()
        part = Entry(entry.value("arrivals"), entry.place("arrivals"), ("kind", "cv", "file"))
        kind: ArrivalKind = part.choice("kind", get_args(ArrivalKind))  # type: ignore[assignment]
        cv = float(part.number("cv", 0.05, 20, 1))
        if kind != "gamma" and "cv" in part:
            raise part.refuse("cv", "nothing here", "It belongs to kind: gamma.")
        if kind != "recorded":
            return Arrivals(kind, cv)
        return Arrivals(kind, recorded_s=_read_recorded(part, self.folder))


def _read_call(
    entry: Entry, name: str, outputs: Mapping[str, str], samples: tuple[Sample, ...]
) -> Call:
    prompt = _template(entry, "prompt", samples)
    system = _template(entry, "system", samples) if "system" in entry else None
    return Call(
        name=name,
        outputs=outputs,
        prompt=prompt,
        system=system,
        max_tokens=entry.whole("max_tokens", 1, MAX_TOKENS),
        samples=samples,
        form=_read_form(entry),
        repeats=_repeats([prompt, *([system] if system else [])], samples),
    )


def _repeats(
    templates: Sequence[PromptTemplate], samples: tuple[Sample, ...]
) -> Mapping[str, tuple[str, int]]:
    """Of the samples that are not the first with their prompt: see Call."""
    alike: dict[tuple[str, ...], list[str]] = {}
    found = {}
    for sample in samples:
        names = alike.setdefault(tuple(each.render(sample.fields) for each in templates), [])
        if names:
            found[sample.id] = names[0], len(names)
        names.append(sample.id)
    return found


def _template(entry: Entry, key: str, samples: tuple[Sample, ...]) -> PromptTemplate:
    template = PromptTemplate(entry.text(key), entry.place(key))
    _check_paths(entry.place(key), template.paths, samples, "{%s}")
    return template


def _check_paths(where: str, paths: Any, samples: tuple[Sample, ...], shown: str = "%r") -> None:
    for path in paths:
        for sample in samples:
            try:
                look_up(sample.fields, path)
            except MissingField:
                near = did_you_mean(path, sample.fields)
                hint = f"{near} Line {sample.id!r} of its data lacks it.".lstrip()
                name, known = f"{shown % path} in {where}", ", ".join(sample.fields)
                raise ConfigError(name, InWords("no field of the data"), known, hint) from None


def _read_form(entry: Entry) -> StructuredOutputs | None:
    schema, choices = entry.value("json_schema"), entry.value("choices")
    if schema is not None and choices is not None:
        raise entry.refuse("choices", "json_schema or choices, not both")
    if schema is None and choices is None:
        return None
    key, allowed = "choices", "a list of texts, none of them empty"
    if schema is not None:
        key, allowed = "json_schema", "a JSON schema, a map"
    if not isinstance(entry.value(key), list if schema is None else Mapping):
        raise entry.refuse(key, allowed)
    try:
        if schema is not None:
            # Decimals of the file are numbers of JSON.
            plain = json.loads(json.dumps(schema, default=float))
            return StructuredOutputs(json=plain, disable_any_whitespace=True)
        return StructuredOutputs(choice=choices)
    except RequestError as error:
        hint = "" if isinstance(error, InvalidParameter) else error.message
        raise entry.refuse(key, allowed, hint) from None


def _read_metric(entry: Entry) -> Metric:
    tree = entry.value("metric")
    if tree is None:
        raise entry.refuse(
            "metric", f"one of {', '.join(get_args(MetricKind))}, or a map with kind"
        )
    part = Entry({"kind": tree} if isinstance(tree, str) else tree, entry.place("metric"), _METRIC)
    kind: MetricKind = part.choice("kind", get_args(MetricKind))  # type: ignore[assignment]
    fields = part.parts("fields", is_needed=kind == "json_fields")
    for name, match in fields.items():
        if match not in get_args(FieldMatch):
            allowed = ", ".join(get_args(FieldMatch))
            raise ConfigError(f"{part.where}.fields.{name}", match, allowed)
    needs_labels, needs_model = kind == "label_f1", kind in ("similarity", "judge")
    for key, belongs in (
        ("labels", needs_labels),
        ("fields", kind == "json_fields"),
        ("model", needs_model),
        ("question", kind == "judge"),
    ):
        if key in part and not belongs:
            raise part.refuse(key, "nothing here", f"kind {kind} has no {key}.")
    labels = part.texts("labels")
    if needs_labels and (len(labels) < 2 or len(set(map(normalized, labels))) < len(labels)):
        raise part.refuse("labels", "at least two labels that differ in their words")
    return Metric(
        kind=kind,
        reference=part.text("reference"),
        answer_field=part.text("answer_field", ""),
        labels=labels,
        fields=dict(fields),
        model=part.text("model") if needs_model else "",
        question=part.text("question", _QUESTION) if kind == "judge" else "",
    )


def _check_references(where: str, metric: Metric, samples: tuple[Sample, ...]) -> None:
    """Raises: ConfigError for a reference that no answer can meet."""
    labels = {normalized(label) for label in metric.labels}
    for sample in samples:
        value = look_up(sample.fields, metric.reference)
        allowed = None
        if metric.kind == "label_f1" and normalized(as_text(value)) not in labels:
            allowed = f"one of {', '.join(metric.labels)}"
        elif metric.kind == "contains" and not all(map(normalized, phrases(value) or [""])):
            allowed = "at least one phrase, each with a word"
        elif metric.kind == "json_fields":
            wanted = [name for name, match in metric.fields.items() if match != "present"]
            known = value if isinstance(value, Mapping) else {}
            if any(known.get(name) in (None, "", [], {}) for name in wanted):
                allowed = f"an object with {', '.join(wanted)}"
        if allowed is not None:
            raise ConfigError(where, value, allowed, f"So it is in line {sample.id!r} of its data.")


def _read_judge(entry: Entry) -> Judge | None:
    """A tier's name, or that and a question."""
    tree = entry.value("judge")
    if tree is None:
        return None
    part = Entry({"tier": tree} if isinstance(tree, str) else tree, entry.place("judge"), _JUDGE)
    return Judge(part.text("tier"), part.text("question", _QUESTION))


def _read_floor(entry: Entry) -> Floor:
    tree = entry.value("floor")
    if tree is None:
        return Floor()
    if not isinstance(tree, Mapping):
        return Floor(least=float(entry.number("floor", 0, 1)))
    part = Entry(tree, entry.place("floor"), ("least", "within"))
    return Floor(part.optional("least", 0, 1), part.optional("within", 0, 1))


def _read_latency(entry: Entry) -> LatencyObjective | None:
    if "latency" not in entry:
        return None
    part = Entry(entry.value("latency"), entry.place("latency"), ("ttft_s", "e2e_s", "percent"))
    return LatencyObjective(
        part.optional("ttft_s", 0.001, 10**6),
        part.optional("e2e_s", 0.001, 10**6),
        float(part.number("percent", 1, 99.9, 95)),
    )


def _read_shorter(entry: Entry, max_tokens: int) -> tuple[int, ...]:
    shorter = entry.value("shorter") or []
    is_list = isinstance(shorter, list)
    if not is_list or not all(type(n) is int and 1 <= n < max_tokens for n in shorter):
        raise entry.refuse("shorter", f"a list of whole numbers below max_tokens ({max_tokens})")
    return tuple(sorted(set(shorter), reverse=True))


def _read_tokens(entry: Entry) -> TokenCounts | None:
    if "tokens" not in entry:
        return None
    part = Entry(entry.value("tokens"), entry.place("tokens"), ("input", "output"))
    return TokenCounts(part.whole("input", 0, 10**7), part.whole("output", 0, 10**7))


def _read_recorded(part: Entry, folder: Path) -> tuple[float, ...]:
    """A moment a line, in seconds; they need not begin at 0 and must not go back."""
    where, path = part.place("file"), folder / part.text("file")
    try:
        found = [float(line) for line in read_text(path, where).split() if line]
    except ValueError as error:
        raise ConfigError(where, str(path), "a moment in seconds a line", f"{error}.") from None
    is_sorted = all(a <= b for a, b in itertools.pairwise(found))
    if len(found) < 2 or not is_sorted or found[-1] <= found[0] or found[-1] == float("inf"):
        raise ConfigError(where, str(path), "at least two moments in ascending order")
    return tuple(moment - found[0] for moment in found)
