"""What the soak sends, and what must come back: every kind of request that clients make.

In: the model's name and a seed. Out: Asks, endlessly; `faults` says what is wrong with an answer.
Knows nothing of processes, clocks or sockets.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TEXTS = Path(__file__).parents[1] / "quality" / "texts"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ANSWER_TOKENS = (16, 16, 24, 24, 80)
"""Short answers keep places changing; the long ones outgrow their blocks and are preempted."""
ABORTED_TOKENS, MOST_EVENTS = 96, 24
LONG_PROMPT_WORDS = 350
MAX_MODEL_LEN = 1024
TENANTS = ("tenant-a", "tenant-b", "tenant-c")
STOPS = ((" the",), (".",), ("\n",), (",", " and"), ("e",))
CANARIES = (
    "Count from one to twenty in English words:",
    "def fibonacci(n):",
    "The capitals of Europe are",
    "中国的首都是",
)
"""Asked greedily again and again: each has one answer, whatever runs beside it."""


@dataclass(frozen=True)
class Ask:
    """A request. `leaves_after` events the client goes away; None: it reads to the end."""

    kind: str
    route: str
    body: dict[str, Any] | bytes
    status: int = 200
    leaves_after: int | None = None
    canary: int | None = None

    @property
    def is_stream(self) -> bool:
        return isinstance(self.body, dict) and self.body.get("stream") is True


@dataclass
class Answer:
    """What came back. Streams are joined: a text and a finish reason per choice."""

    status: int
    texts: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, list[str]] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    is_done: bool = False
    has_left: bool = False

    def take(self, body: dict[str, Any]) -> bool:
        """Add a chunk of a stream, or a whole answer; True when it brought text."""
        self.error = body.get("error", self.error)
        self.usage = body.get("usage") or self.usage
        has_text = False
        for choice in body.get("choices", ()):
            index, part = choice["index"], choice.get("message") or choice.get("delta") or choice
            new = part.get("content") or part.get("text") or ""
            self.texts[index] = self.texts.get(index, "") + new
            has_text = has_text or bool(new)
            if choice.get("finish_reason"):
                self.reasons.setdefault(index, []).append(choice["finish_reason"])
        return has_text


class Traffic:
    """Asks of all kinds, in the proportions of `KINDS`."""

    def __init__(self, model: str, seed: int) -> None:
        self.model = model
        self.draw = random.Random(seed)  # noqa: S311 - no secret depends on it
        self.words = [
            word for path in sorted(TEXTS.glob("*.txt")) for word in path.read_text("utf-8").split()
        ]
        # Chats of one tenant begin alike.
        self.prefixes = {tenant: self.some_words(120, 160) for tenant in TENANTS}

    def next(self) -> Ask:
        make, _ = self.draw.choices(KINDS, [weight for _, weight in KINDS])[0]
        return make(self)

    def some_words(self, least: int, most: int) -> str:
        count = self.draw.randint(least, most)
        start = self.draw.randrange(len(self.words) - count)
        return " ".join(self.words[start : start + count])

    def fields(self, **more: Any) -> dict[str, Any]:
        """A body with settings as clients send them; every second one a stream."""
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": self.draw.randint(1, self.draw.choice(ANSWER_TOKENS)),
        }
        if self.draw.random() < 0.5:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if self.draw.random() < 0.5:
            body |= {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "seed": self.draw.randrange(99)}
        if self.draw.random() < 0.2:
            body |= {"frequency_penalty": 0.5, "repetition_penalty": 1.1, "min_p": 0.02}
        return body | more

    def chat(self) -> Ask:
        messages = [{"role": "user", "content": self.some_words(3, 80)}]
        return Ask("chat", CHAT, self.fields(messages=messages))

    def text(self) -> Ask:
        return Ask("text", TEXT, self.fields(prompt=self.some_words(1, 120)))

    def several_prompts(self) -> Ask:
        prompts = [self.some_words(1, 30) for _ in range(3)]
        return Ask("several prompts", TEXT, self.fields(prompt=prompts))

    def every_seat(self, num_seats: int) -> Ask:
        """Short prompts that are answered together."""
        prompts = [self.some_words(1, 5) for _ in range(num_seats)]
        body = {"prompt": prompts, "max_tokens": 4, "logprobs": 5, "temperature": 1}
        return Ask("several prompts", TEXT, self.fields(**body))

    def every_position(self) -> Ask:
        """A long prompt that is scored."""
        body = {"prompt": self.some_words(150, 150), "max_tokens": 1, "echo": True, "logprobs": 5}
        return Ask("logprobs", TEXT, self.fields(**body))

    def token_ids(self) -> Ask:
        ids = [self.draw.randrange(1000, 100_000) for _ in range(self.draw.randint(1, 150))]
        return Ask("token ids", TEXT, self.fields(prompt=ids))

    def tenant(self) -> Ask:
        tenant = self.draw.choice(TENANTS)
        messages = [
            {"role": "system", "content": self.prefixes[tenant]},
            {"role": "user", "content": self.some_words(3, 20)},
        ]
        return Ask("shared prefix", CHAT, self.fields(messages=messages, cache_salt=tenant))

    def several_answers(self) -> Ask:
        body = self.fields(prompt=self.some_words(5, 60), n=self.draw.randint(2, 4), temperature=1)
        return Ask("n > 1", TEXT, body)

    def stop(self) -> Ask:
        body = self.fields(prompt=self.some_words(5, 60), stop=list(self.draw.choice(STOPS)))
        return Ask("stop", TEXT, body)

    def logprobs(self) -> Ask:
        return Ask("logprobs", TEXT, self.fields(prompt=self.some_words(5, 60), logprobs=5))

    def long(self) -> Ask:
        return Ask("long", TEXT, self.fields(prompt=self.some_words(150, LONG_PROMPT_WORDS)))

    def canary(self) -> Ask:
        index = self.draw.randrange(len(CANARIES))
        body = {"model": self.model, "prompt": CANARIES[index], "temperature": 0, "max_tokens": 16}
        stream = {"stream": True, "stream_options": {"include_usage": True}}
        return Ask(
            "canary", TEXT, body | (stream if self.draw.random() < 0.5 else {}), canary=index
        )

    def abort(self) -> Ask:
        """A client that goes away: before the first event, or after some."""
        ask = self.draw.choice((self.chat, self.text, self.tenant, self.several_answers))()
        assert isinstance(ask.body, dict)
        body = ask.body | {"stream": True, "max_tokens": ABORTED_TOKENS, "ignore_eos": True}
        return Ask("abort", ask.route, body, leaves_after=self.draw.randint(0, MOST_EVENTS))

    def bad(self) -> Ask:
        status, route, body = self.draw.choice(BAD)
        if isinstance(body, dict):
            body = {"model": self.model} | body
        return Ask("invalid", route, body, status)


KINDS: tuple[tuple[Callable[[Traffic], Ask], int], ...] = (
    (Traffic.chat, 20),
    (Traffic.text, 15),
    (Traffic.several_prompts, 4),
    (Traffic.token_ids, 6),
    (Traffic.tenant, 15),
    (Traffic.several_answers, 6),
    (Traffic.stop, 8),
    (Traffic.logprobs, 4),
    (Traffic.long, 6),
    (Traffic.canary, 12),
    (Traffic.abort, 15),
    (Traffic.bad, 10),
)
HELLO = [{"role": "user", "content": "Hello"}]
BAD: tuple[tuple[int, str, dict[str, Any] | bytes], ...] = (
    (400, CHAT, {"messages": HELLO, "temperature": "hot"}),
    (400, CHAT, {"messages": []}),
    (400, CHAT, {"messages": HELLO, "n": 0}),
    (400, CHAT, {"messages": HELLO, "response_format": {"type": "xml"}}),
    (400, TEXT, {"prompt": "Hello", "max_tokens": 2 * MAX_MODEL_LEN}),
    (400, TEXT, {"prompt": [5] * (2 * MAX_MODEL_LEN)}),
    (400, TEXT, {"prompt": [10**9]}),
    (400, TEXT, {"prompt": "Hello", "suffix": 3}),
    (404, TEXT, {"prompt": "Hello", "model": "no-such-model"}),
    (404, "/v1/nothing", {"prompt": "Hello"}),
    (400, TEXT, b'{"prompt": "Hel'),
    (400, TEXT, b"\xff\xfe"),
)


def faults(ask: Ask, answer: Answer) -> str | None:
    """What is wrong with an answer, or None."""
    if answer.status != ask.status:
        return f"status {answer.status} in place of {ask.status}: {json.dumps(answer.error)}"
    if ask.status != 200:
        is_whole = answer.error is not None and {"message", "type", "param", "code"} <= set(
            answer.error
        )
        return None if is_whole else f"an error without its fields: {answer.error}"
    if answer.error is not None:
        return f"an error inside the stream: {json.dumps(answer.error)}"
    if answer.has_left:
        return None
    return incomplete(ask, answer)


def incomplete(ask: Ask, answer: Answer) -> str | None:
    """What an answer that was read to its end lacks."""
    assert isinstance(ask.body, dict)
    prompt = ask.body.get("prompt")
    is_list = isinstance(prompt, list) and isinstance(prompt[0], str)
    num_choices = ask.body.get("n", 1) * (len(prompt) if is_list and prompt else 1)
    if sorted(answer.texts) != list(range(num_choices)):
        return f"choices {sorted(answer.texts)} in place of {num_choices}"
    ends = [answer.reasons.get(index) for index in range(num_choices)]
    if any(end not in (["stop"], ["length"]) for end in ends):
        return f"finish reasons {ends}"
    if ask.is_stream and not answer.is_done:
        return "a stream without [DONE]"
    most = num_choices * ask.body["max_tokens"]
    tokens = (answer.usage or {}).get("completion_tokens", 0)
    if not 0 < tokens <= most:
        return f"{tokens} output tokens of at most {most}"
    for stop in ask.body.get("stop", ()):
        if any(stop in text for text in answer.texts.values()):
            return f"the stop text {stop!r} inside {answer.texts}"
    return None
