"""Routes for operators and probes: health, version, load and metrics."""

from __future__ import annotations

import msgspec

from headrace.core.errors import ModelNotFound, RequestError
from headrace.server.replies import JsonReply
from headrace.server.services import Services, Visit

HEALTH_NAMES = ("model",)


async def report_health(services: Services, visit: Visit) -> JsonReply:
    """200 when tokens can move: of the model that `?model=` names, else of any.

    Raises: CapacityError, which is a 503, while starting, draining, stalled or dead; ModelNotFound.
    """
    names = visit.query.getlist("model")
    if len(names) > 1:
        raise RequestError("The query has model twice; give it once.", "model", "invalid_value")
    try:
        services.check_ready(model=names[0] if names else None)
    except ModelNotFound as error:
        if services.accounts.keys.is_open and not services.config.require_key:
            raise
        # Probes carry no keys, and who has none is not told what is served.
        raise ModelNotFound(error.model, hint="GET /v1/models lists them, with a key.") from None
    return JsonReply(msgspec.json.encode({"status": "ready"}))


def report_version(services: Services) -> JsonReply:
    return JsonReply(msgspec.json.encode({"version": services.version}))


def report_load(services: Services) -> JsonReply:
    """Inference requests in progress, as vLLM counts them."""
    return JsonReply(msgspec.json.encode({"server_load": services.lifetime.num_running}))


def report_metrics(services: Services) -> JsonReply:
    metrics = services.metrics
    return JsonReply(metrics.render(), content_type=metrics.content_type)
