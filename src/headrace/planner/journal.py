"""Journal: what models answered, a line each, so that a run that was cut off goes on.

Owns the JSONL file of a profile. In: Answers and scores. Out: those whose request is still the same
one: an Answer is found by what was asked, so a changed prompt is asked anew. A line that was cut in
its middle is dropped. Raises: ConfigError for a file that is none of ours.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen
from headrace.core.message import Message
from headrace.core.structured_outputs import StructuredOutputs
from headrace.core.usage import Usage
from headrace.planner.step_times import StepRun, StepTimes
from headrace.planner.workload import Call, Sample, Tier

VERSION = 1


@frozen(kw_only=True)
class Answer:
    """One request and what came of it. Units: seconds from sending on.

    `key` names what was asked. `marks` are pairs of output tokens and characters so far; none where
    the backend does not count as it goes. `prefill_s` and `decode_s` are those of the engine, as
    are `..._compute_s`, its own share of them: None of an engine elsewhere.
    `error` stands in for a text that never came.
    """

    key: str
    call: str
    tier: str
    sample: str
    text: str
    usage: Usage
    ttft_s: float
    e2e_s: float
    prefill_s: float
    decode_s: float
    finish_reason: str | None
    concurrency: int
    answered_unix_s: float
    marks: tuple[tuple[int, int], ...] = ()
    error: str | None = None
    prefill_compute_s: float | None = None
    decode_compute_s: float | None = None


class Journal:
    """Reads all lines when made; writes each new one at once. Reading changes no file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._answers: dict[tuple[str, str], Answer] = {}
        self._scores: dict[tuple[str, str, str], float] = {}
        self._step_times: dict[tuple[str, str], StepTimes] = {}
        self._step_runs: dict[tuple[str, str], list[StepRun]] = {}
        self._facts: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._torn_at: int | None = None
        self._read()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was asked yet."""
        return not self._answers

    def find(self, call: Call, tier: Tier, sample: Sample) -> Answer | None:
        """The answer to exactly this request."""
        return self._answers.get((tier.name, request_key(call, tier, sample)))

    def score(self, task: str, judged_by: str, text: str) -> float | None:
        """What a model made of a text, asked before."""
        return self._scores.get((task, judged_by, digest(text)))

    def add(self, answer: Answer) -> None:
        """Keep an answer."""
        self._answers[answer.tier, answer.key] = answer
        self._write({"kind": "answer"} | asdict(answer))

    def add_score(self, task: str, judged_by: str, text: str, value: float) -> None:
        """Keep what a model made of a text."""
        key = (task, judged_by, digest(text))
        self._scores[key] = value
        self._write({"kind": "score", "key": key, "value": value})

    def step_times(self, tier: Tier) -> StepTimes | None:
        """How long steps take of the model that a tier has now."""
        return self._step_times.get((tier.name, tier.model))

    def add_step_times(self, tier: Tier, times: StepTimes) -> None:
        """Keep how long steps of a tier take."""
        self._step_times[tier.name, tier.model] = times
        self._write({"kind": "steps", "tier": tier.name, "model": tier.model} | asdict(times))

    def step_runs(self, tier: Tier) -> Sequence[StepRun]:
        """Those of a measurement that was cut off, by what computes now."""
        return self._step_runs.get((tier.name, tier.model), ())

    def add_step_run(self, tier: Tier, run: StepRun) -> None:
        """Keep one run, until all of them are there."""
        self._step_runs.setdefault((tier.name, tier.model), []).append(run)
        self._write({"kind": "step_run", "tier": tier.name, "model": tier.model} | asdict(run))

    def facts(self, tier: Tier) -> Mapping[str, Any]:
        """What computed the newest answers of a tier; empty where none were asked."""
        return self._facts.get((tier.name, tier.model), {})

    def add_facts(self, tier: Tier, facts: Mapping[str, Any]) -> None:
        """Keep what computes the answers that follow: machine, kernels, version."""
        if self.facts(tier) == facts:
            return
        self._take_facts((tier.name, tier.model), facts)
        entry = {"kind": "facts", "tier": tier.name, "model": tier.model}
        self._write(entry | {"facts": dict(facts)})

    def _take(self, entry: Mapping[str, Any]) -> None:
        kind = entry["kind"]
        if kind == "answer":
            answer = _read_answer(entry)
            self._answers[answer.tier, answer.key] = answer
        elif kind == "score":
            task, judged_by, text = entry["key"]
            self._scores[task, judged_by, text] = float(entry["value"])
        elif kind == "steps":
            self._step_times[entry["tier"], entry.get("model", "")] = StepTimes.read(entry)
        elif kind == "facts":
            self._take_facts((entry["tier"], entry.get("model", "")), entry["facts"])
        elif kind == "step_run":
            run = StepRun(**_known(StepRun, entry))
            self._step_runs.setdefault((entry["tier"], entry["model"]), []).append(run)

    def _take_facts(self, tier: tuple[str, str], facts: Mapping[str, Any]) -> None:
        """Steps of another machine are no part of this one's."""
        self._facts[tier] = facts
        self._step_runs.pop(tier, None)

    def _read(self) -> None:
        """Raises: ConfigError that names the line."""
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigError("--profile", str(self.path), "a file", f"{error.strerror}.") from None
        whole = raw[: raw.rfind(b"\n") + 1]
        # Not splitlines: answers may have line separators that JSON leaves as they are.
        lines = whole.decode("utf-8", "replace").split("\n")[:-1]
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise TypeError("it is no object with headrace_profile")
                if number > 1:
                    self._take(entry)
                elif entry["headrace_profile"] != VERSION:
                    found = entry["headrace_profile"]
                    raise self._not_ours(1, f"its version is {found!r}, and {VERSION} is read here")
            except ConfigError:
                raise
            except (json.JSONDecodeError, RecursionError) as error:
                raise self._not_ours(number, f"it is no JSON: {error}") from None
            except (ValueError, KeyError, TypeError) as error:
                missing = f"it has no {error}" if isinstance(error, KeyError) else str(error)
                raise self._not_ours(number, missing) from None
        if len(whole) < len(raw):
            if not lines:
                raise self._not_ours(1, "it has no whole line")
            self._torn_at = len(whole)

    def _not_ours(self, number: int, reason: str) -> ConfigError:
        allowed = "a profile that `headrace profile` wrote, or a path where no file is"
        hint = f"What is wrong with line {number}: {reason}."
        return ConfigError("--profile", f"{self.path}:{number}", allowed, hint)

    def _write(self, entry: Mapping[str, Any]) -> None:
        if self._torn_at is not None:
            # What a killed process left; the next line must not stick to it.
            os.truncate(self.path, self._torn_at)
            self._torn_at = None
        is_new = not self.path.exists() or not self.path.stat().st_size
        # Half of a surrogate pair, which is no UTF-8, becomes the escape that JSON has for it.
        with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            if is_new:
                file.write(json.dumps({"headrace_profile": VERSION}) + "\n")
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def messages_of(call: Call, sample: Sample) -> tuple[Message, ...]:
    """What is sent."""
    system = () if call.system is None else (Message("system", call.system.render(sample.fields)),)
    return (*system, Message("user", call.prompt.render(sample.fields)))


def form_of(call: Call, tier: Tier) -> StructuredOutputs | None:
    """The form that answers are held to; a choice is asked for in words where a tier refuses it."""
    is_choice = call.form is not None and call.form.form == "choice"
    return None if is_choice and not tier.takes_choices else call.form


def request_key(call: Call, tier: Tier, sample: Sample) -> str:
    """Names all that an answer depends on, and which of several equal requests it is.

    Each of them is asked: how long an answer takes is another number every time.
    """
    form = form_of(call, tier)
    asked = [
        *(tier.model, tier.url),
        *((message.role, message.content) for message in messages_of(call, sample)),
        *(call.max_tokens, None if form is None else (form.form, form.source)),
        *call.repeats.get(sample.id, ())[1:],
    ]
    return digest(json.dumps(asked, ensure_ascii=False))


def digest(text: str) -> str:
    """A short name of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _read_answer(entry: Mapping[str, Any]) -> Answer:
    known = _known(Answer, entry)
    known["usage"] = Usage(**entry["usage"])
    known["marks"] = tuple((tokens, chars) for tokens, chars in entry["marks"])
    return Answer(**known)


def _known(kind: type[Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a line says of a record's fields."""
    return {item.name: entry[item.name] for item in fields(kind) if item.name in entry}
