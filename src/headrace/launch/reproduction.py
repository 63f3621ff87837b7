"""Reproduction: a stored request run again, and how the answers compare.

In: a StoredRequest and something that answers bodies: an engine in this process or a server. Out:
whether every token is the same, else the first one that is not, and which facts of the receipt
differ.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from headrace.core.clock import SystemClock
from headrace.core.config import Config
from headrace.core.errors import HeadraceError, RequestError
from headrace.core.frozen import frozen
from headrace.core.stored_requests import StoredAnswer, StoredRequest
from headrace.core.stores import Caller
from headrace.core.version import headrace_version
from headrace.economics.call_progress import CallFacts
from headrace.economics.metered import Metered
from headrace.hub.model_store import ModelStore
from headrace.launch.local_engine import LocalEngine
from headrace.launch.model_builds import ModelBuilds, with_adapter
from headrace.launch.response_door import ResponseDoor
from headrace.observe.prometheus import PrometheusMetrics
from headrace.server.anthropic_messages import create_message
from headrace.server.kept_responses import KeptResponses
from headrace.server.openai_chat import create_chat_completion
from headrace.server.openai_completions import create_completion
from headrace.server.openai_responses import create_response
from headrace.server.replies import EventReply, JsonReply
from headrace.server.services import Call, Services

Route = Callable[[Services, Call], Awaitable[JsonReply | EventReply]]
# A body, and the answer to it as JSON.
Send = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]

ROUTES: Mapping[str, Route] = {
    "/v1/chat/completions": create_chat_completion,
    "/v1/completions": create_completion,
    "/v1/messages": create_message,
    "/v1/responses": create_response,
}
# How it is answered, not what; a repetition is whole, at once, and kept by nobody.
_LEFT_OUT = frozenset({"stream", "stream_options", "request_id", "background", "store"})
_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
}
_MODEL_FACTS = ("sha256", "version", "kernels", "kv_cache_dtype")
_ADAPTER_FACTS = ("adapter_sha256",)  # None is none
_REQUEST_FACTS = ("truncated_tokens", "input_tokens")
_UNKNOWN = object()


@frozen
class Comparison:
    """What a repetition showed. `tokens` and `receipt` are lines for people, empty when equal."""

    num_tokens: int
    num_answers: int
    tokens: tuple[str, ...]
    receipt: tuple[str, ...]

    @property
    def is_identical(self) -> bool:
        return not self.tokens


async def repeat(stored: StoredRequest, send: Send, model: str | None = None) -> Comparison:
    """Run a request again, one prompt at a time, each with the seed it had.

    `model` replaces the name in the body.
    Raises: HeadraceError for a request that cannot be run again; what `send` raises.
    """
    token_lines: list[str] = []
    receipt_lines: list[str] = []
    for number, body in enumerate(bodies(stored, model)):
        try:
            reply = await send(body)
            receipt, answers = reply["receipt"], _read_answers(reply)
        except (KeyError, TypeError, ValueError):
            raise HeadraceError(
                "The server gave no receipt or no token ids: it is no headrace server, or an older "
                "one. Run the request on an engine here, without --url."
            ) from None
        where = f"prompt {number}, " if len(stored.answers) > 1 else ""
        token_lines += _compare_answers(where, stored.answers[number], answers)
        receipt_lines += _compare_receipts(where, stored.receipt, receipt, number)
    answers_before = [answer for each in stored.answers for answer in each]
    return Comparison(
        sum(len(answer.token_ids) for answer in answers_before),
        len(answers_before),
        tuple(token_lines),
        tuple(dict.fromkeys(receipt_lines)),
    )


def bodies(stored: StoredRequest, model: str | None = None) -> list[dict[str, Any]]:
    """A body for each prompt, whole and with everything that a comparison needs.

    Raises: HeadraceError for a request without its body.
    """
    if stored.body is None:
        raise HeadraceError(
            f"{stored.request_id} was stored without its prompt and answer (store.requests: "
            f"redacted), so it cannot be run again. Known of it: body sha256 {stored.body_sha256}, "
            f"answers sha256 {stored.answers_sha256}."
        )
    if stored.operation not in ROUTES:
        raise HeadraceError(f"Requests to {stored.operation} cannot be run again.")
    shared = {name: value for name, value in stored.body.items() if name not in _LEFT_OUT}
    shared |= {"receipt": True, "return_token_ids": True}
    shared |= {"store": False} if stored.operation == "/v1/responses" else {}
    shared |= {} if model is None else {"model": model}
    if any(entry["seed"] is None for entry in stored.receipt["requests"]):
        raise HeadraceError(
            f"The seed of {stored.request_id} is not known, so it cannot be run again: an upstream "
            "that was sent none answered it, or the kept answer to another question did."
        )
    seeds = [entry["seed"]["value"] for entry in stored.receipt["requests"]]
    if "prompt" not in shared:
        return [shared | {"seed": seeds[0]}]
    prompt = shared["prompt"]
    is_list = isinstance(prompt, list) and not isinstance(prompt[0], int)
    prompts = prompt if is_list else [prompt]
    return [
        shared | {"prompt": one, "seed": seed} for one, seed in zip(prompts, seeds, strict=True)
    ]


@contextmanager
def local_sender(
    engine: LocalEngine, model: str, config: Config, stored: StoredRequest
) -> Iterator[tuple[Send, str]]:
    """Answers bodies with an engine of this process, which must run; also its name of the model."""
    builds, door = ModelBuilds(config.hub.home), ResponseDoor(config)
    builds.add(ModelStore(config.hub).resolve(model), engine.environment)
    name = engine.models()[0].name
    services = Services(
        engine,
        config.server,
        PrometheusMetrics(name),
        headrace_version(),
        SystemClock(),
        kept=KeptResponses(door.open),
        build_of=lambda name: with_adapter(builds, engine, name),
    )
    # What a response goes on from is its tenant's.
    facts = CallFacts("reproduce", stored.operation, Caller(stored.tenant))

    async def send(body: Mapping[str, Any]) -> Mapping[str, Any]:
        builds.wait()
        meter = Metered(engine, facts, services.accounts, services.clock)
        call = Call(dict(body), {}, facts.request_id, facts.caller, meter)
        reply = await ROUTES[stored.operation](services, call)
        if not isinstance(reply, JsonReply):
            raise RequestError("The stored request asked for a stream.")
        answer: Mapping[str, Any] = json.loads(reply.body)
        return answer

    try:
        yield send, name
    finally:
        door.close()


def _read_answers(reply: Mapping[str, Any]) -> list[StoredAnswer]:
    """Tokens and ends of the answers of any route. Raises: KeyError where they are missing."""
    if "choices" in reply:
        return [_answer(choice, choice["finish_reason"]) for choice in reply["choices"]]
    if "stop_reason" in reply:
        return [_answer(reply, _REASONS[reply["stop_reason"]])]
    has_calls = any(item["type"] == "function_call" for item in reply["output"])
    whole = "tool_calls" if has_calls else "stop"
    return [_answer(reply, "length" if reply["status"] == "incomplete" else whole)]


def _answer(part: Mapping[str, Any], finish_reason: str | None) -> StoredAnswer:
    return StoredAnswer(tuple(part["token_ids"]), finish_reason)


def _compare_answers(
    where: str, before: Sequence[StoredAnswer], after: Sequence[StoredAnswer]
) -> list[str]:
    lines = []
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        name = f"{where}answer {index}" if len(before) > 1 else f"{where}the answer"
        old_ids, new_ids = old.token_ids, new.token_ids
        if old.finish_reason is None:
            # It was cut off; what it would have said next is not known.
            new_ids = new_ids[: len(old_ids)]
        pairs = enumerate(zip(old_ids, new_ids, strict=False))
        first = next((at for at, (one, other) in pairs if one != other), None)
        if first is not None:
            was, came = old_ids[first], new_ids[first]
            lines.append(f"{name}: token {first} was {was} and is {came}")
        elif len(old_ids) != len(new_ids):
            lines.append(f"{name}: had {len(old_ids)} tokens and has {len(new_ids)}")
        elif old.finish_reason not in (None, new.finish_reason):
            lines.append(
                f"{name}: ended with {old.finish_reason} and ends with {new.finish_reason}"
            )
    return lines


def _compare_receipts(
    where: str, before: Mapping[str, Any], after: Mapping[str, Any], number: int
) -> list[str]:
    """What can change an answer; times and cache hits cannot."""
    old, new = before["requests"][number], after["requests"][0]
    known = [
        (f"model {name}", (before["model"] or {}).get(name), (after["model"] or {}).get(name))
        for name in _MODEL_FACTS
    ]
    known += [(f"{where}{name}", old[name], new[name]) for name in _REQUEST_FACTS]
    known += [
        (f"{where}{name}", (old[name] or {}).get("value"), (new[name] or {}).get("value"))
        for name in ("max_tokens", "seed")
    ]
    # What either side does not know is no difference.
    pairs = [pair for pair in known if None not in pair]
    pairs += [
        (f"model {name}", (before["model"] or {}).get(name), (after["model"] or {}).get(name))
        for name in _ADAPTER_FACTS
    ]
    acceptance = "draft_acceptance"  # None is that of the seed alone
    pairs += [(f"{where}{acceptance}", old.get(acceptance), new.get(acceptance))]
    names = before["parameters"] | after["parameters"]
    pairs += [
        (name, _value(before["parameters"], name), _value(after["parameters"], name))
        for name in names
    ]
    return [
        f"{name}: was {_shown(was)}, is {_shown(now)}" for name, was, now in pairs if was != now
    ]


def _value(parameters: Mapping[str, Any], name: str) -> Any:
    """A parameter that one of the two versions does not have is a difference too."""
    return parameters[name]["value"] if name in parameters else _UNKNOWN


def _shown(value: object) -> str:
    return "unknown" if value is _UNKNOWN else json.dumps(value, ensure_ascii=False)
