"""What runs now, what waits and for what: records for operators.

In: what the scheduler, the engine's front and the pool of models know of a request. Out: plain
data. Holds neither prompt nor answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from headrace.core.backend import Health
from headrace.core.frozen import frozen

WaitReason = Literal[
    "turn",
    "seats",
    "tokens",
    "kv_blocks",
    "prefix",
    "interactive",
    "step",
    "text",
    "form",
    "engine",
    "model",
    "room",
    "pause",
]
WAIT_REASONS: dict[WaitReason, str] = {
    "turn": "others come before it in the queue",
    "seats": "as many requests run as may (engine.max_num_seqs)",
    "tokens": "the tokens of a step go to others (engine.max_num_batched_tokens)",
    "kv_blocks": "too few KV blocks are free",
    "prefix": "another request computes the beginning that both have",
    "interactive": "it is in the background, and interactive requests come first",
    "step": "the step that runs has to end",
    "text": "its prompt is made into tokens",
    "form": "the form of its answer is compiled",
    "engine": "the engine does not have it yet, or does not answer",
    "model": "its model is being loaded",
    "room": "requests of another model have to end, whose memory its model gets",
    "pause": "the engine is paused (POST /resume)",
}
RequestPhase = Literal["loading", "preparing", "waiting", "running"]


@frozen(kw_only=True)
class AnswerActivity:
    """An answer as its scheduler sees it. Units: tokens, blocks; `queue_position` from 1.

    `num_others_ahead`: of those before it in the queue, the ones of other tenants.
    """

    request_id: str
    waits_for: WaitReason | None
    queue_position: int | None
    num_others_ahead: int
    num_computed_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    num_blocks: int
    num_preemptions: int


@frozen(kw_only=True)
class RequestActivity:
    """An answer that is not finished. None: not known at this point, or by an engine that is busy.

    `request_id` is the engine's, `call_id` the `x-request-id` of the call. `has_reader`: somebody
    still wants it. `other_models`: those whose requests have to end first. Units: seconds, tokens,
    blocks.
    """

    request_id: str
    call_id: str
    tenant: str
    phase: RequestPhase
    waits_for: WaitReason | None
    age_s: float
    priority: int
    is_background: bool
    has_reader: bool = True
    num_prompt_tokens: int | None = None
    max_tokens: int | None = None
    num_output_tokens: int = 0
    num_computed_tokens: int | None = None
    num_cached_tokens: int | None = None
    num_blocks: int | None = None
    num_preemptions: int | None = None
    queue_position: int | None = None
    num_others_ahead: int | None = None
    predicted_wait_s: float | None = None
    other_models: tuple[str, ...] = ()


@frozen(kw_only=True)
class ModelActivity:
    """A model and its unfinished answers. `health` is None while it is not loaded.

    `is_current`: the scheduler was asked just now; else only what lies before it is known.
    """

    model: str
    health: Health | None
    is_current: bool
    requests: tuple[RequestActivity, ...] = ()


@runtime_checkable
class Inspectable(Protocol):
    """A Backend that says what it does."""

    async def activity(self) -> Sequence[ModelActivity]:
        """Each model with its unfinished answers; those that run come first."""
        ...
