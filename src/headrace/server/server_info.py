"""GET /server_info: what this server is, which settings it runs with, and what it serves.

`config_format` is vLLM's: settings as text or as JSON. Needs the scope admin. In: Services. Out:
JSON without a secret.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgspec

from headrace.core.backend import EngineControl, ModelControl, ModelInfo
from headrace.core.errors import InvalidParameter
from headrace.server.operator_query import check_query
from headrace.server.origins import check_page
from headrace.server.replies import JsonReply
from headrace.server.services import Services, Visit

_FORMATS = ("text", "json")


async def report_server(services: Services, visit: Visit) -> JsonReply:
    """Version, settings, machine, and every model or the one that `?model=` names.

    Raises: InvalidParameter, ModelNotFound; HttpRefusal for a page of another origin.
    """
    check_page(visit.headers, services.config, visit.caller.key_id is None)
    check_query(visit, ("config_format", "model"))
    form = visit.query.get("config_format", "text")
    if form not in _FORMATS:
        raise InvalidParameter("config_format", form, "text or json")
    models = services.models()
    if "model" in visit.query:
        name = visit.query["model"]
        models = {name: services.find_model(name)}
    settings = services.facts.settings
    body = {
        "version": services.version,
        "headrace_config": settings if form == "json" else _as_text(settings),
        "system_env": {
            "python": sys.version.split()[0],
            "platform": platform.platform(),
            **services.facts.machine,
        },
        "models": [_describe(services, name, info) for name, info in models.items()],
    }
    return JsonReply(msgspec.json.encode(body))


def _as_text(settings: Mapping[str, Any], prefix: str = "") -> str:
    """A line for each setting, by its whole name, such as `engine.device`."""
    lines = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            lines.append(_as_text(value, f"{prefix}{name}."))
        else:
            lines.append(f"{prefix}{name}: {msgspec.json.encode(value).decode()}")
    return "\n".join(lines)


def _describe(services: Services, name: str, info: ModelInfo) -> dict[str, Any]:
    """A model; what nobody knows is null."""
    backend = services.backend
    base = info.parent or info.name
    build = services.build_of(info.name)
    return {
        "id": name,
        "root": info.root,
        "parent": info.parent,
        "kind": info.kind,
        "max_model_len": info.max_model_len,
        "provider": info.provider,
        "is_loaded": base in backend.loaded() if isinstance(backend, ModelControl) else None,
        "is_paused": _is_paused(backend, base),
        "build": None if build is None else asdict(build),
    }


def _is_paused(backend: object, model: str) -> bool | None:
    return backend.is_paused(model) if isinstance(backend, EngineControl) else None
