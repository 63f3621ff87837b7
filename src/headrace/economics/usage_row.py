"""UsageRow: what the ledger keeps of one call. A field here is a column there.

In: what is known when a call ends. Out: one frozen record, also as plain values for a file.
"""

from __future__ import annotations

import secrets
from typing import Literal, NamedTuple, Protocol

# Measured: the engine counted. Reported: another server did. Estimated: a request that was running
# ended before it said anything, or nobody counted. None: nothing was computed.
UsageSource = Literal["measured", "reported", "estimated", "none"]
# The operation, and the tenant, of a comparison that nobody called for.
SHADOW = "shadow"


# A dataclass of this many fields is slow to make, and the start of every server would pay for it.
class UsageRow(NamedTuple):
    """One call. None is what is not known, never 0. Units: tokens, seconds, ms of Unix.

    Fields:
        row_id: unique and in order of time, so that writing a row twice adds one.
        request_id: the `x-request-id` of the answer.
        day: UTC, as 2026-11-22.
        model: the one that served; None when no request came that far.
        input_tokens: all of the prompt, with `cached_input_tokens` in it.
        estimated_input_tokens: by length, for prompts whose tokens were never reported.
        rejected_draft_tokens: computed, in no answer.
        first_token_s, duration_s: from arrival at the server; the other times are the engine's.
        prefill_compute_s, decode_compute_s: the call's share of the engine's steps; prefill_s and
            decode_s are time that passed, for other calls too.
        finish_reason: of every answer of the call, joined by a comma; `abort` for one cut off.
        error: the code or kind of what ended the call; `client_disconnected` when the client left,
            `server_stopped` when the server ended.
        http_status: None when the client left before there was one.
        cache_write_tokens, cache_write_1h_tokens: of the input, written to a provider's cache.
        provider: whose model it is; `local` here.
        tags: of the caller, in order, as a JSON list; None without any.
        price_state: `priced`, `stale`, `unpriced`, or `none` when nothing was computed.
        price_id: the price that was charged; its day is in it.
        input_rate, ...: what was charged for a million tokens of the kind, in nano-dollars.
        cost_nano_usd: None when it is unpriced, never 0; `marginal_nano_usd` is without the idle
            time of an own machine.
        task: declared by the caller; routing goes by it.
        tier, backend: which one of them served, where requests are routed; `route_reason` is why.
        attempt: 1 for the first backend that was paid, and so on.
        is_part: 1 for a row beside the call's own one: what another backend was paid for it.
        user_digest, safety_digest, cache_key_digest: of `user`, `safety_identifier` and
            `prompt_cache_key` of the body: see core.end_user.
    """

    row_id: str
    request_id: str
    accepted_at_ms: int
    day: str
    tenant: str
    key_id: str | None = None
    operation: str = ""
    model: str | None = None
    usage_source: UsageSource = "none"
    input_tokens: int | None = 0
    cached_input_tokens: int | None = 0
    output_tokens: int | None = 0
    reasoning_tokens: int | None = 0
    rejected_draft_tokens: int | None = 0
    estimated_input_tokens: int = 0
    queue_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    first_token_s: float | None = None
    duration_s: float | None = None
    finish_reason: str | None = None
    error: str | None = None
    http_status: int | None = None
    cache_write_tokens: int | None = 0
    cache_write_1h_tokens: int | None = 0
    provider: str | None = None
    tags: str | None = None
    price_state: str | None = None
    price_id: str | None = None
    input_rate: int | None = None
    cached_input_rate: int | None = None
    cache_write_rate: int | None = None
    cache_write_1h_rate: int | None = None
    output_rate: int | None = None
    reasoning_rate: int | None = None
    cost_nano_usd: int | None = None
    marginal_nano_usd: int | None = None
    task: str | None = None
    tier: str | None = None
    backend: str | None = None
    route_reason: str | None = None
    attempt: int | None = None
    is_part: int | None = None
    user_digest: str | None = None
    safety_digest: str | None = None
    cache_key_digest: str | None = None
    prefill_compute_s: float | None = None
    decode_compute_s: float | None = None


class Ledger(Protocol):
    """Takes rows. Never waits and never fails."""

    def append(self, row: UsageRow) -> None: ...


def new_row_id(unix_ms: int) -> str:
    """Ordered by time, so that a table grows at its end; unique by 80 random bits."""
    return f"{unix_ms:012x}{secrets.token_hex(10)}"
