"""Routes for operators and probes: health, version, load and metrics."""

from __future__ import annotations

import msgspec

from headrace.server.replies import JsonReply
from headrace.server.services import Services


def report_health(services: Services) -> JsonReply:
    """200 when tokens can move.

    Raises: CapacityError, which is a 503, while starting, draining, stalled or dead.
    """
    services.check_ready()
    return JsonReply(msgspec.json.encode({"status": "ready"}))


def report_version(services: Services) -> JsonReply:
    return JsonReply(msgspec.json.encode({"version": services.version}))


def report_load(services: Services) -> JsonReply:
    """Inference requests in progress, as vLLM counts them."""
    return JsonReply(msgspec.json.encode({"server_load": services.lifetime.num_running}))


def report_metrics(services: Services) -> JsonReply:
    metrics = services.metrics
    return JsonReply(metrics.render(), content_type=metrics.content_type)
