"""/v1/responses/{id}: reading, following, cancelling and deleting a response, and its input items.

In: what a path and a query name. Out: the stored response, or the one that still runs here, to its
tenant; everybody else's is as unknown as one that never was.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.core.errors import InvalidParameter, RequestError
from headrace.core.responses import RUNNING, StoredResponse
from headrace.server.error_responses import HttpRefusal
from headrace.server.kept_responses import end_items
from headrace.server.openai_payloads import encode
from headrace.server.openai_responses_schema import INCLUDABLE
from headrace.server.replies import EventReply, JsonReply
from headrace.server.response_call import read_history
from headrace.server.response_items import Item
from headrace.server.response_runs import Reader, Run, replay
from headrace.server.services import Services, Visit

DEFAULT_LIMIT, MAX_LIMIT = 20, 100

_SWITCH = {"true": True, "1": True, "false": False, "0": False}
RESPONSE_NAMES = ("stream", "starting_after", "include", "include[]", "include_obfuscation")
ITEMS_NAMES = ("limit", "order", "after", "include", "include[]")


async def retrieve_response(services: Services, visit: Visit) -> JsonReply | EventReply:
    """The response as it is now, or its events.

    Raises: HttpRefusal 404, RequestError, StoreError.
    """
    _check_included(visit)
    is_streamed = _read_switch(visit, "stream")
    _read_switch(visit, "include_obfuscation")
    after = _read_integer(visit, "starting_after", 0, 2**53)
    if after is not None and not is_streamed:
        raise InvalidParameter("starting_after", after, "only together with stream=true")
    begin = 0 if after is None else after + 1
    run = _find_run(services, visit)
    if run is not None and not is_streamed:
        return JsonReply(encode(run.writer.snapshot()))
    if run is not None and run.keeps_log:
        reader = Reader(run, begin, services.config.heartbeat_s)
        return EventReply(reader.frames(), failed=reader.last_words)
    stored = await _find(services, visit)
    if not is_streamed:
        return JsonReply(stored.body)
    if stored.events is None:
        raise InvalidParameter(
            "stream",
            True,
            "true for a response that was sent with background: true and stream: true",
            "Leave stream out.",
        )
    return JsonReply(
        replay(stored.events, begin),
        headers={"cache-control": "no-cache"},
        content_type="text/event-stream; charset=utf-8",
    )


async def delete_response(services: Services, visit: Visit) -> JsonReply:
    """Forget a response; one that runs is stopped first.

    Raises: HttpRefusal 404, StoreError.
    """
    run = _find_run(services, visit)
    if run is not None:
        run.cancel()
        await run.wait_for_end()
    name, tenant = visit.path["id"], visit.caller.tenant
    if not services.kept.is_on or not await services.kept.ask(
        lambda store: store.delete(tenant, name)
    ):
        raise _unknown(name)
    services.runs.forget(tenant, name)
    return JsonReply(encode({"id": name, "object": "response", "deleted": True}))


async def cancel_response(services: Services, visit: Visit) -> JsonReply:
    """Stop a response in the background; one that has ended stays as it is.

    Raises: HttpRefusal 404, RequestError, StoreError.
    """
    run = _find_run(services, visit)
    if run is not None:
        run.cancel()
        await run.wait_for_end()
        return JsonReply(encode(run.writer.body))
    stored = await _find(services, visit)
    body = msgspec.json.decode(stored.body)
    if not body["background"]:
        raise RequestError(
            f"The response {stored.id} was not sent with background: true. Only those can be "
            "cancelled; for any other close its connection."
        )
    if stored.status not in RUNNING:
        return JsonReply(stored.body)
    # Another server runs it, and sees that it is over when it prolongs its lease.
    cancelled = encode({**body, "status": "cancelled", "output": end_items(body["output"])})
    await services.kept.ask(lambda store: store.update(stored.id, "cancelled", cancelled))
    return JsonReply((await _find(services, visit)).body)


async def list_input_items(services: Services, visit: Visit) -> JsonReply:
    """What the response was asked: the items of the responses before it and its own.

    Raises: HttpRefusal 404, RequestError, StoreError.
    """
    _check_included(visit)
    limit = _read_integer(visit, "limit", 1, MAX_LIMIT) or DEFAULT_LIMIT
    order = visit.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidParameter("order", order, "asc or desc")
    stored = await _find(services, visit)
    items = [
        *await read_history(services, visit.caller.tenant, stored.previous_id),
        *msgspec.json.decode(stored.input_items),
    ]
    page, has_more = _page(
        items if order == "asc" else items[::-1], visit.query.get("after"), limit
    )
    body = {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else "",
        "last_id": page[-1]["id"] if page else "",
        "has_more": has_more,
    }
    return JsonReply(encode(body))


def _page(items: list[Item], after: str | None, limit: int) -> tuple[list[Item], bool]:
    begin = 0
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise InvalidParameter("after", after, "the id of an item of this response")
        begin = ids.index(after) + 1
    return items[begin : begin + limit], begin + limit < len(items)


def _find_run(services: Services, visit: Visit) -> Run | None:
    return services.runs.find(visit.caller.tenant, visit.path["id"])


async def _find(services: Services, visit: Visit) -> StoredResponse:
    """Raises: HttpRefusal 404, StoreError."""
    name = visit.path["id"]
    found = await services.kept.find(visit.caller.tenant, name)
    if found is None:
        raise _unknown(name)
    return found


def _unknown(name: str) -> HttpRefusal:
    shown = name if len(name) <= 80 else f"{name[:77]}..."
    return HttpRefusal(
        404,
        f"There is no response {shown!r}: it was deleted, is too old, was sent with store: false, "
        "or never was.",
    )


def _check_included(visit: Visit) -> None:
    """Raises: InvalidParameter for what cannot be included."""
    for name in (*visit.query.getlist("include"), *visit.query.getlist("include[]")):
        if name not in INCLUDABLE:
            raise InvalidParameter("include", name, f"{' and '.join(INCLUDABLE)}")


def _read_switch(visit: Visit, name: str) -> bool:
    given = visit.query.get(name, "false")
    if given.lower() not in _SWITCH:
        raise InvalidParameter(name, given, "true or false")
    return _SWITCH[given.lower()]


def _read_integer(visit: Visit, name: str, low: int, high: int) -> int | None:
    given: Any = visit.query.get(name)
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and low <= int(given[:20]) <= high):
        raise InvalidParameter(name, given, f"a whole number from {low} to {high}")
    return int(given)
