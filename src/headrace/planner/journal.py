"""Journal: what models answered, a line each, so that a run that was cut off goes on.

Owns the JSONL file of a profile. In: Answers and scores. Out: those whose request is still the same
one: an Answer is found by what was asked, so a changed prompt is asked anew. A line that was cut in
its middle is dropped. Raises: ConfigError for a file that is none of ours.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headrace.core.errors import ConfigError
from headrace.core.message import Message
from headrace.core.usage import Usage
from headrace.planner.step_times import StepTimes
from headrace.planner.workload import Call, Sample, Tier

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One request and what came of it. Units: seconds from sending on.

    `key` names what was asked. `marks` are pairs of output tokens and characters so far; none where
    the backend does not count as it goes. `prefill_s` and `decode_s` are those of the engine.
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


class Journal:
    """Reads all lines when made; writes each new one at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._answers: dict[tuple[str, str], Answer] = {}
        self._scores: dict[tuple[str, str, str], float] = {}
        self.step_times: dict[str, StepTimes] = {}
        self.facts: dict[str, Mapping[str, Any]] = {}
        for entry in self._lines():
            self._take(entry)

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

    def add_step_times(self, tier: str, times: StepTimes) -> None:
        """Keep how long steps of a tier take."""
        self.step_times[tier] = times
        self._write({"kind": "steps", "tier": tier} | asdict(times))

    def add_facts(self, tier: str, facts: Mapping[str, Any]) -> None:
        """Keep what computed the answers that follow: machine, kernels, version."""
        self.facts[tier] = facts
        self._write({"kind": "facts", "tier": tier, "facts": dict(facts)})

    def _take(self, entry: Mapping[str, Any]) -> None:
        kind = entry["kind"]
        if kind == "answer":
            answer = _read_answer(entry)
            self._answers[answer.tier, answer.key] = answer
        elif kind == "score":
            task, judged_by, text = entry["key"]
            self._scores[task, judged_by, text] = float(entry["value"])
        elif kind == "steps":
            self.step_times[entry["tier"]] = StepTimes.read(entry)
        elif kind == "facts":
            self.facts[entry["tier"]] = entry["facts"]

    def _lines(self) -> Iterator[Mapping[str, Any]]:
        if not self.path.exists():
            return
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):
            # What a killed process left; the next line must not stick to it.
            os.truncate(self.path, len(whole))
        lines = whole.decode("utf-8", "replace").splitlines()
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                if number == 1 and entry["headrace_profile"] != VERSION:
                    raise ValueError("another version")
                if number > 1:
                    entry["kind"]
                    yield entry
            except (ValueError, KeyError, TypeError):
                allowed = "a profile that `headrace profile` wrote, or a path where no file is"
                where = f"{self.path}:{number}"
                raise ConfigError("--profile", where, allowed) from None

    def _write(self, entry: Mapping[str, Any]) -> None:
        is_new = not self.path.exists() or not self.path.stat().st_size
        with self.path.open("a", encoding="utf-8") as file:
            if is_new:
                file.write(json.dumps({"headrace_profile": VERSION}) + "\n")
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def messages_of(call: Call, sample: Sample) -> tuple[Message, ...]:
    """What is sent."""
    system = () if call.system is None else (Message("system", call.system.render(sample.fields)),)
    return (*system, Message("user", call.prompt.render(sample.fields)))


def request_key(call: Call, tier: Tier, sample: Sample) -> str:
    """Names all that an answer depends on."""
    asked = [
        *(tier.model, tier.url),
        *((message.role, message.content) for message in messages_of(call, sample)),
        *(call.max_tokens, None if call.form is None else (call.form.form, call.form.source)),
    ]
    return digest(json.dumps(asked, ensure_ascii=False))


def digest(text: str) -> str:
    """A short name of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _read_answer(entry: Mapping[str, Any]) -> Answer:
    known = {name: entry[name] for name in Answer.__slots__ if name in entry}
    known["usage"] = Usage(**entry["usage"])
    known["marks"] = tuple((tokens, chars) for tokens, chars in entry["marks"])
    return Answer(**known)
