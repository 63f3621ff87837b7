"""Routes for operators: load models, unload them, load their files anew.

`/sleep`, `/wake_up` and `/is_sleeping` are vLLM's. All need the scope admin.
"""

from __future__ import annotations

import msgspec

from headrace.core.backend import ModelControl
from headrace.core.errors import InvalidParameter
from headrace.server.error_responses import HttpRefusal
from headrace.server.operator_query import check_order, check_query
from headrace.server.origins import check_page
from headrace.server.replies import JsonReply
from headrace.server.services import Services, Visit

_LEVELS = ("1", "2")


async def sleep(services: Services, visit: Visit) -> JsonReply:
    """Unload a model, or all, once their requests have ended.

    vLLM's levels are taken; both free all memory here. Raises: HttpRefusal, RequestError.
    """
    control = _control(services, visit)
    await check_order(visit, ("model", "level", "mode"))
    level, mode = visit.query.get("level", "1"), visit.query.get("mode", "wait")
    if level not in _LEVELS:
        raise InvalidParameter("level", level, "1 or 2, which do the same")
    if mode != "wait":
        raise InvalidParameter("mode", mode, "wait", "POST /pause?mode=abort ends what runs.")
    for name in [_named(services, visit)] if "model" in visit.query else control.loaded():
        await control.unload(name)
    return JsonReply(b"{}")


async def wake_up(services: Services, visit: Visit) -> JsonReply:
    """Load a model, or the first one; vLLM's tags are taken, and all of it is loaded.

    Raises: HttpRefusal, RequestError, BackendError.
    """
    control = _control(services, visit)
    await check_order(visit, ("model", "tags"))
    headers = services.warned(["tags"] if "tags" in visit.query else [])
    await control.load(_named(services, visit))
    return JsonReply(b"{}", headers=headers)


async def is_sleeping(services: Services, visit: Visit) -> JsonReply:
    """Whether a model is unloaded, or all are. Raises: HttpRefusal, RequestError."""
    loaded = _control(services, visit).loaded()
    check_query(visit, ("model",))
    is_awake = _named(services, visit) in loaded if "model" in visit.query else bool(loaded)
    return JsonReply(msgspec.json.encode({"is_sleeping": not is_awake}))


async def reload_model(services: Services, visit: Visit) -> JsonReply:
    """Load a model's files anew; its requests end on what they began with.

    Raises: HttpRefusal, ModelNotFound, BackendError.
    """
    control = _control(services, visit)
    await check_order(visit, ())
    name = str(visit.path["name"])
    await control.replace(services.find_model(name).name)
    return JsonReply(msgspec.json.encode({"id": name, "object": "model", "reloaded": True}))


def _control(services: Services, visit: Visit) -> ModelControl:
    """Raises: HttpRefusal, also for a page of another origin, which needs no key to send a POST."""
    check_page(visit.headers, services.config, visit.caller.key_id is None)
    if not isinstance(services.backend, ModelControl):
        raise HttpRefusal(404, "The models of this server are loaded for as long as it runs.")
    return services.backend


def _named(services: Services, visit: Visit) -> str:
    """The backend's name of the model that a query names, else of the first one."""
    name = visit.query.get("model")
    if name is None:
        return services.backend.models()[0].name
    return services.find_model(name).name
