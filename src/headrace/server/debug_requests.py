"""`GET /debug/requests`: what runs now, what waits, and for what. Needs the scope admin.

In: what the backend says of itself. Out: JSON. Neither prompt nor answer is in it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.core.activity import WAIT_REASONS, Inspectable, ModelActivity, RequestActivity
from headrace.server.error_responses import HttpRefusal
from headrace.server.operator_query import check_query
from headrace.server.replies import JsonReply
from headrace.server.services import Services, Visit


async def report_requests(services: Services, visit: Visit) -> JsonReply:
    """Every unfinished answer of every model, or of the one that `?model=` names.

    Raises: HttpRefusal 404 where the backend does not say, ModelNotFound.
    """
    if not isinstance(services.backend, Inspectable):
        raise HttpRefusal(404, "The backend of this server does not say what it does.")
    check_query(visit, ("model",))
    wanted = None
    if "model" in visit.query:
        wanted = services.find_model(visit.query["model"]).name
    found = await services.backend.activity()
    shown_names = {info.name: name for name, info in reversed(services.models().items())}
    models = [row for row in found if wanted in (None, row.model)]
    body = {
        "object": "list",
        "models": [_model(row, shown_names) for row in models],
        "data": [_request(row, entry, shown_names) for row in models for entry in row.requests],
    }
    return JsonReply(msgspec.json.encode(body))


def _model(row: ModelActivity, shown_names: dict[str, str]) -> dict[str, Any]:
    health, requests = row.health, row.requests
    return {
        "model": shown_names.get(row.model, row.model),
        "status": "unloaded" if health is None else health.status,
        "detail": health.detail if health is not None and health.detail else None,
        "is_current": row.is_current,
        "num_running": sum(entry.phase == "running" for entry in requests),
        "num_waiting": sum(entry.phase != "running" for entry in requests),
    }


def _request(
    row: ModelActivity, entry: RequestActivity, shown_names: dict[str, str]
) -> dict[str, Any]:
    reason = entry.waits_for
    return {
        "id": entry.request_id,
        "request_id": entry.call_id,
        "tenant": entry.tenant,
        "model": shown_names.get(row.model, row.model),
        "state": entry.phase,
        "waits_for": reason,
        "why": _why(entry, shown_names),
        "age_s": round(entry.age_s, 3),
        "queue_position": entry.queue_position,
        "others_ahead": entry.num_others_ahead,
        "predicted_wait_s": _rounded(entry.predicted_wait_s),
        "priority": entry.priority,
        "background": entry.is_background,
        "client_connected": entry.has_reader,
        "prompt_tokens": entry.num_prompt_tokens,
        "computed_tokens": entry.num_computed_tokens,
        "cached_tokens": entry.num_cached_tokens,
        "generated_tokens": entry.num_output_tokens,
        "max_tokens": entry.max_tokens,
        "kv_blocks": entry.num_blocks,
        "preemptions": entry.num_preemptions,
    }


def _why(entry: RequestActivity, shown_names: dict[str, str]) -> str | None:
    if entry.waits_for == "room" and entry.other_models:
        names = ", ".join(shown_names.get(name, name) for name in entry.other_models)
        return f"waits until requests of {names} end (the memory does not hold all models)"
    return None if entry.waits_for is None else WAIT_REASONS[entry.waits_for]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
