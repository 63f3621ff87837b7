"""The features that must work in pairs: what each adds to a call, and what it promises of answers.

A promise compares the answers of a call without the feature to those with it, all else equal, and
brings the evidence that the feature was at work. Two features work together when each keeps its
promise beside the other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

THINK, THOUGHT = "<think>", "</think>"
END_ID, THINK_ID, THOUGHT_ID = 257, 258, 259
STOP = "e"
MAX_TOKENS = 80
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if tools %}{{ tools | tojson }} <tool_call>\n{}\n</tool_call>\n{% endif %}"
    "{% if add_generation_prompt %}assistant: "
    "{% if enable_thinking %}" + THINK + "\n{% else %}{# " + THOUGHT + " #}{% endif %}{% endif %}"
)
# An answer is letters and spaces unless it is held to more; thoughts end sooner or later.
_LETTERS = {*range(ord("a"), ord("z") + 1), ord(" ")}
BIAS = {str(i): -100 for i in range(288) if i not in _LETTERS} | {str(THOUGHT_ID): 1.0}
ADAPTER = "tuned"
SCHEMA = {
    "type": "object",
    "properties": {"size": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["size"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "measure", "parameters": SCHEMA}}


@dataclass(frozen=True)
class Call:
    """A chat request, and how it is put to which engine."""

    body: Mapping[str, Any]
    engine: Mapping[str, Any] = field(default_factory=dict)
    is_batch: bool = False
    is_crowded: bool = False
    is_warm: bool = False
    is_predicted: bool = False
    num_blocks: int | None = None

    def adding(self, **fields: Any) -> Call:
        return replace(self, body={**self.body, **fields})

    def on(self, **settings: Any) -> Call:
        return replace(self, engine={**self.engine, **settings})


@dataclass(frozen=True)
class Answer:
    """What is told of one answer."""

    text: str | None
    reasoning: str | None
    calls: tuple[tuple[str, str], ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[tuple[str, float], ...] | None
    finish_reason: str
    stop_reason: str | int | None

    @property
    def raw(self) -> str:
        """All that was generated."""
        marks = {THINK_ID: THINK, THOUGHT_ID: THOUGHT, END_ID: ""}
        return "".join(marks[i] if i in marks else chr(i) for i in self.token_ids)


@dataclass(frozen=True)
class Seen:
    """A call's answers; `again` are those of the same call, made once more."""

    answers: tuple[Answer, ...]
    prompt_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    accepted_tokens: int = 0
    rejected_tokens: int = 0
    kv_cache_dtype: str = ""
    adapter_sha256: str | None = None
    num_chunks: int = 0
    is_from_batch: bool = False
    again: tuple[Answer, ...] = ()

    @property
    def drafted_tokens(self) -> int:
        return self.accepted_tokens + self.rejected_tokens


Promise = Callable[[Seen, Seen], None]


@dataclass(frozen=True)
class Feature:
    name: str
    says: str
    add: Callable[[Call], Call]
    promise: Promise


def equal(without: Seen, seen: Seen) -> None:
    assert seen.answers == without.answers


def prediction_of(text: str) -> str:
    """What a caller may predict of an answer: not how it begins, two wrong letters in the rest."""
    begin, wrong = len(text) // 4, 3 * len(text) // 4
    return text[begin:wrong] + ("zq" if text[wrong : wrong + 1] != "z" else "qz") + text[wrong:]


def first_is_alone(without: Seen, seen: Seen) -> None:
    assert len(seen.answers) == 3
    assert seen.answers[0] == without.answers[0]
    # All are the likeliest one, or each is drawn apart.
    assert len({each.token_ids for each in seen.answers}) in (1, 3)


def with_logprobs(without: Seen, seen: Seen) -> None:
    assert tuple(replace(each, logprobs=None) for each in seen.answers) == without.answers
    for each in seen.answers:
        assert each.logprobs is not None
        assert len(each.logprobs) == len(each.token_ids)


def cut_at_stop(without: Seen, seen: Seen) -> None:
    for whole, cut in zip(without.answers, seen.answers, strict=True):
        assert whole.token_ids[: len(cut.token_ids)] == cut.token_ids
        is_cut = STOP in whole.raw
        assert (cut.stop_reason == STOP) == is_cut
        assert is_cut or cut == whole
        assert not is_cut or cut.raw.index(STOP) == len(cut.raw) - len(STOP)
    assert any(STOP in whole.raw for whole in without.answers)


def has_form(_: Seen, seen: Seen) -> None:
    for each in seen.answers:
        if each.stop_reason == STOP or each.calls:
            continue
        assert each.finish_reason == "stop"
        assert 0 <= json.loads(each.text or "")["size"] <= 99


def calls_a_tool(_: Seen, seen: Seen) -> None:
    for each in seen.answers:
        if each.stop_reason == STOP:
            assert "<tool_call>" in each.raw
            continue
        if not each.calls:  # beside a form a call is the model's choice
            has_form(seen, replace(seen, answers=(each,)))
            continue
        assert each.finish_reason == "tool_calls"
        for name, arguments in each.calls:
            assert name == "measure"
            assert 0 <= json.loads(arguments)["size"] <= 99


def splits(_: Seen, seen: Seen) -> None:
    for each in seen.answers:
        raw = each.raw[: -len(STOP)] if each.stop_reason == STOP else each.raw
        thoughts, mark, rest = raw.partition(THOUGHT)
        assert (each.reasoning or "").strip() == thoughts.strip()
        assert thoughts.strip()
        if mark and not each.calls:
            assert (each.text or "").strip() == rest.strip()


def from_cache(without: Seen, seen: Seen) -> None:
    equal(without, seen)
    assert seen.cached_tokens > 0 == without.cached_tokens


def in_int8(without: Seen, seen: Seen) -> None:
    assert without.kv_cache_dtype != seen.kv_cache_dtype == "int8"
    assert all(each.token_ids for each in seen.answers)
    for plain, rounded in zip(without.answers, seen.answers, strict=True):
        assert rounded.logprobs is None or rounded.logprobs != plain.logprobs, "nothing is rounded"


def preempted(without: Seen, seen: Seen) -> None:
    equal(without, seen)
    assert seen.preemptions > 0


def from_batch(without: Seen, seen: Seen) -> None:
    equal(without, seen)
    assert seen.is_from_batch


def repeats(without: Seen, seen: Seen) -> None:
    assert seen.again == seen.answers
    tokens = [each.token_ids for each in seen.answers]
    assert len(set(tokens)) == len(tokens)
    assert tokens[0] != without.answers[0].token_ids, "this is the likeliest answer, not a draw"


def guessed(without: Seen, seen: Seen) -> None:
    equal(without, seen)
    assert seen.drafted_tokens > 0
    # Beside another way to guess, this one changes what is guessed.
    before = (without.accepted_tokens, without.rejected_tokens)
    assert (seen.accepted_tokens, seen.rejected_tokens) != before


def guessed_partly_right(without: Seen, seen: Seen) -> None:
    guessed(without, seen)
    assert seen.accepted_tokens > 0
    is_short = any(each.stop_reason == STOP for each in seen.answers)
    assert seen.rejected_tokens > 0 or is_short, "the wrong letters come after the stop string"


def guessed_right(without: Seen, seen: Seen) -> None:
    guessed(without, seen)
    assert seen.accepted_tokens > 0


def adapted(without: Seen, seen: Seen) -> None:
    assert without.adapter_sha256 is None
    assert seen.adapter_sha256 is not None
    assert seen.answers[0].token_ids != without.answers[0].token_ids


def streams(without: Seen, seen: Seen) -> None:
    equal(without, seen)
    assert seen.num_chunks > 2


def _add_tools(call: Call) -> Call:
    has_form = "response_format" in call.body
    return call.adding(tools=[TOOL], tool_choice="auto" if has_form else "required")


def _add_form(call: Call) -> Call:
    form = {"name": "size", "strict": True, "schema": SCHEMA}
    more = {"tool_choice": "auto"} if "tools" in call.body else {}
    return call.adding(response_format={"type": "json_schema", "json_schema": form}, **more)


FEATURES = (
    Feature("streaming", "the chunks join to the whole answer", lambda c: c.adding(
        stream=True, stream_options={"include_usage": True}), streams),
    Feature("n > 1", "the first of three answers is that of one", lambda c: c.adding(n=3),
            first_is_alone),
    Feature("logprobs", "one for each token; the answer is the same", lambda c: c.adding(
        logprobs=True, top_logprobs=2), with_logprobs),
    Feature("stop strings", "the answer ends where the text first occurs", lambda c: c.adding(
        stop=[STOP]), cut_at_stop),
    Feature("structured output", "the answer has the form, or is cut by a stop string", _add_form,
            has_form),
    Feature("tools", "calls satisfy the schema, or are cut by a stop string", _add_tools,
            calls_a_tool),
    Feature("reasoning split", "reasoning and text are what was generated", lambda c: c.adding(
        chat_template_kwargs={"enable_thinking": True}), splits),
    Feature("prefix cache", "the answer is the same", lambda c: replace(
        c.on(enable_prefix_caching=True), is_warm=True), from_cache),
    Feature("int8 KV", "keys and values are int8, and the other's promise holds", lambda c: c.on(
        kv_cache_dtype="int8"), in_int8),
    Feature("preemption", "the answer is the same", lambda c: replace(c, is_crowded=True),
            preempted),
    Feature("speculation", "the answer is the same, some guesses are right and some wrong",
            lambda c: replace(c.on(speculative="auto"), is_predicted=True), guessed_partly_right),
    Feature("draft model", "the answer is the same, also with rejection: it is greedy or seeded",
            lambda c: c.on(speculative="both", draft_model=True, draft_acceptance="rejection"),
            guessed),
    Feature("past answers", "the answer is the same", lambda c: replace(c.on(
        speculative="both" if c.engine.get("draft_model") else "prompt-lookup",
        lookup_past_tokens=65536), is_warm=True), guessed_right),
    Feature("LoRA", "the receipt names the adapter, and the answer is another", lambda c: c.on(
        adapters=(ADAPTER,)).adding(model=ADAPTER), adapted),
    Feature("batch jobs", "the answer is the same", lambda c: replace(c, is_batch=True),
            from_batch),
    Feature("seeded sampling", "the same again with the same seed", lambda c: c.adding(
        temperature=1.2, seed=11), repeats),
)  # fmt: skip
REFUSED = {frozenset(("streaming", "batch jobs")): "`stream`: a batch has no streams"}

NAMES = tuple(feature.name for feature in FEATURES)
PAIRS = tuple(combinations(NAMES, 2))
BY_NAME = {feature.name: feature for feature in FEATURES}


def page() -> str:
    """The table for readers."""
    lines = [
        "# Features in pairs",
        "",
        "Every pair of these features has a differential test on the real engine behind the real",
        "routes: each keeps its promise beside the other, or the pair is refused with a 400 that",
        "names the field. `tests/consistency/test_feature_pairs.py` is the proof; it fails when a",
        "pair is missing here.",
        "",
        "| feature | its promise, beside each other feature |",
        "|---|---|",
        *(f"| {feature.name} | {feature.says} |" for feature in FEATURES),
        "",
        f"| | {' | '.join(NAMES[1:])} |",
        f"|---|{'---|' * (len(NAMES) - 1)}",
    ]
    for row, name in enumerate(NAMES[:-1]):
        cells = ["" for _ in NAMES[1 : row + 1]]
        for other in NAMES[row + 1 :]:
            cells.append("refused" if frozenset((name, other)) in REFUSED else "both")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "Refused:", ""]
    lines += [f"- {' with '.join(sorted(pair))}: {why}." for pair, why in REFUSED.items()]
    return re.sub(r" +\|", " |", "\n".join(lines)) + "\n"
