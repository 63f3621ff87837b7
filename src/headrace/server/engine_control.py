"""Routes that pause engines, have them go on, and empty their prefix caches: vLLM's names.

In: a query that may name a model. Out: JSON. All need the scope admin.
Source: vLLM, entrypoints/serve/dev: rlhf and cache.
"""

from __future__ import annotations

from typing import get_args

import msgspec

from headrace.core.backend import EngineControl, PauseMode
from headrace.core.errors import InvalidParameter
from headrace.server.error_responses import HttpRefusal
from headrace.server.operator_query import check_order, check_query
from headrace.server.origins import check_page
from headrace.server.replies import JsonReply
from headrace.server.services import Services, Visit

_MODES: dict[str, PauseMode] = {mode: mode for mode in get_args(PauseMode)}
# vLLM's older name of a mode.
_OLD_WAIT = "wait_for_inflight_requests"
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


async def pause(services: Services, visit: Visit) -> JsonReply:
    """Start no request until /resume; answers when nothing moves any more.

    Raises: HttpRefusal, RequestError, BackendError.
    """
    control = _control(services, visit)
    await check_order(visit, ("model", "mode", "clear_cache", _OLD_WAIT))
    asked = visit.query.get("mode", "abort")
    mode = _MODES.get(asked)
    if mode is None:
        raise InvalidParameter("mode", asked, ", ".join(_MODES))
    if _flag(visit, _OLD_WAIT, is_default=False):
        mode = "wait"
    clear_cache = _flag(visit, "clear_cache", is_default=True)
    is_reached = await control.pause(_named(services, visit), mode, clear_cache=clear_cache)
    # Another call had it go on before everything had ended.
    return _reply({"status": "paused" if is_reached else "resumed"})


async def resume(services: Services, visit: Visit) -> JsonReply:
    """Go on. Raises: HttpRefusal, RequestError, BackendError."""
    control = _control(services, visit)
    await check_order(visit, ("model",))
    await control.resume(_named(services, visit))
    return _reply({"status": "resumed"})


async def is_paused(services: Services, visit: Visit) -> JsonReply:
    """Whether a model, or every one, is paused. Raises: HttpRefusal, RequestError."""
    control = _control(services, visit)
    check_query(visit, ("model",))
    return _reply({"is_paused": control.is_paused(_named(services, visit))})


async def reset_prefix_cache(services: Services, visit: Visit) -> JsonReply:
    """Forget cached prefixes of a model, or of all.

    Raises: HttpRefusal, RequestError, BackendError.
    """
    control = _control(services, visit)
    await check_order(visit, ("model", "reset_running_requests", "reset_external"))
    if _flag(visit, "reset_external", is_default=False):
        allowed = "false: no cache is kept outside of the engine"
        raise InvalidParameter("reset_external", True, allowed)
    reset_running = _flag(visit, "reset_running_requests", is_default=False)
    is_reset = await control.reset_prefix_cache(
        _named(services, visit), reset_running=reset_running
    )
    return _reply({"success": is_reset})


def _reply(body: dict[str, object]) -> JsonReply:
    return JsonReply(msgspec.json.encode(body))


def _control(services: Services, visit: Visit) -> EngineControl:
    """Raises: HttpRefusal, also for a page of another origin, which needs no key to send a POST."""
    check_page(visit.headers, services.config, visit.caller.key_id is None)
    if not isinstance(services.backend, EngineControl):
        raise HttpRefusal(404, "The engines of this server are not paused from outside.")
    return services.backend


def _named(services: Services, visit: Visit) -> str | None:
    """The backend's name of the model that a query names. Raises: ModelNotFound."""
    name = visit.query.get("model")
    return None if name is None else services.find_model(name).name


def _flag(visit: Visit, name: str, *, is_default: bool) -> bool:
    """Raises: InvalidParameter."""
    given = visit.query.get(name)
    if given is None:
        return is_default
    if given.lower() not in _BOOLEANS:
        raise InvalidParameter(name, given, "true or false")
    return _BOOLEANS[given.lower()]
