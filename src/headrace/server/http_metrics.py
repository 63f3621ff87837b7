"""Counts and times of HTTP requests, by route and not by path: paths are whatever callers make up.

In: requests as they begin and end. Out: metrics, and the load that an ORCA header reports.
"""

from __future__ import annotations

import json

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from headrace.core import telemetry
from headrace.core.clock import Clock
from headrace.economics.tenant_metrics import status_kind
from headrace.server.services import Metrics

_ROUTE = "headrace.route"
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"})


class NamedRoute(Route):
    """A route that leaves its pattern in the scope."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See starlette."""
        scope[_ROUTE] = self.path
        await super().handle(scope, receive, send)


class HttpMetrics:
    """Of one server. Belongs to its event loop."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics, self._clock = metrics, clock
        self._num_in_progress = 0

    def begin(self) -> float:
        """A request came. Returns when."""
        self._count(1)
        return self._clock.monotonic_s()

    def end(self, scope: Scope, status: int | None, begin_s: float) -> float:
        """It has ended. Returns the seconds it took."""
        self._count(-1)
        spent_s = self._clock.monotonic_s() - begin_s
        method = scope["method"] if scope["method"] in _METHODS else "other"
        handler = scope.get(_ROUTE, "none")
        labels = {"handler": handler, "method": method}
        self._metrics.add(telemetry.HTTP_REQUESTS, 1, **labels, status=status_kind(status))
        self._metrics.observe(telemetry.HTTP_REQUEST_DURATION, spent_s, **labels)
        return spent_s

    def load_headers(self, wanted: str | None) -> dict[str, str]:
        """`endpoint-load-metrics` for a request that wants it as text or JSON.

        Source: vLLM, `entrypoints/openai/orca_metrics.py`; ORCA's named metrics.
        """
        form = (wanted or "").strip().upper()
        if form not in ("TEXT", "JSON"):
            return {}
        usage = max(self._metrics.gauge(telemetry.KV_CACHE_USAGE), default=0.0)
        num_waiting = sum(self._metrics.gauge(telemetry.NUM_REQUESTS_WAITING))
        named = {"kv_cache_usage_perc": usage, "num_requests_waiting": num_waiting}
        if form == "JSON":
            return {"endpoint-load-metrics": f"JSON {json.dumps({'named_metrics': named})}"}
        shown = ", ".join(f"named_metrics.{name}={value}" for name, value in named.items())
        return {"endpoint-load-metrics": f"TEXT {shown}"}

    def _count(self, change: int) -> None:
        self._num_in_progress += change
        self._metrics.set(telemetry.HTTP_IN_PROGRESS, self._num_in_progress)
