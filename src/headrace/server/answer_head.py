"""AnswerHead: what the head of every answer says beside what its route says.

In: an answer as it is sent. Out: the same, with the request's id, what is left of a key's limits,
costs, the tier that served it, CORS. Knows no route.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from starlette.types import Message, Scope, Send

from headrace.economics.metered import Metered
from headrace.server.call_scope import HEADERS, IGNORED, METER, NOTES, REQUEST_ID, TRACE, UNREAD
from headrace.server.dialect import Dialect
from headrace.server.http_metrics import HttpMetrics
from headrace.server.origins import cors_headers
from headrace.server.replies import WARNINGS, warning_headers
from headrace.server.route_headers import route_headers
from headrace.server.services import Services

_Pairs = list[tuple[bytes, bytes]]
_WARNINGS = WARNINGS.encode("latin-1")


class AnswerHead:
    """Of one answer. `status` is 0 until its head was sent."""

    def __init__(
        self, scope: Scope, send: Send, dialect: Dialect, services: Services, http: HttpMetrics
    ) -> None:
        self._scope, self._send, self._dialect = scope, send, dialect
        self._services, self._http = services, http
        self.status = 0

    async def send(self, message: Message) -> None:
        """See starlette.types.Send."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            of_route = _with_names(message.get("headers", ()), self._scope[UNREAD])
            self._scope[IGNORED] = _ignored_names(of_route)
            message["headers"] = [*of_route, *self._of_request(), *_encoded(self._of_call())]
        await self._send(message)

    def _of_request(self) -> _Pairs:
        """What is known before the request is read."""
        scope = self._scope
        pairs = [
            (b"x-request-id", scope[REQUEST_ID].encode("latin-1")),
            (b"x-content-type-options", b"nosniff"),
        ]
        if scope[TRACE] is not None:
            pairs.append((b"traceresponse", scope[TRACE].traceparent.encode("latin-1")))
        return pairs + _encoded(cors_headers(scope[HEADERS], self._services.config))

    def _of_call(self) -> dict[str, str]:
        """What is left, what it cost, who served it: as far as it is known by now."""
        scope, unix_s = self._scope, self._services.clock.unix_s()
        meter: Metered | None = scope.get(METER)
        load = self._http.load_headers(scope[HEADERS].get("endpoint-load-metrics-format"))
        levels = () if meter is None else meter.limit_levels()
        headers = load | self._dialect.headers(scope[REQUEST_ID], levels, unix_s)
        if meter is None:
            return headers
        route = meter.route()
        notes = scope.get(NOTES) if self.status == 200 else None
        return (
            meter.limit_headers()
            | headers
            | meter.cost_headers()
            | meter.budget_headers()
            | route_headers(route)
            | ({} if notes is None else notes.cut_headers() | notes.seed_headers(route is not None))
        )


def _with_names(headers: Iterable[tuple[bytes, bytes]], names: Sequence[str]) -> _Pairs:
    """The headers of a route, which name those of the head too that had no effect."""
    pairs = list(headers)
    if not names:
        return pairs
    of_route = _ignored_names(pairs)
    every = [*of_route.split(","), *names] if of_route else names
    others = [pair for pair in pairs if pair[0] != _WARNINGS]
    return others + _encoded(warning_headers(every))


def _ignored_names(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Fields that had no effect, as the head of an answer names them."""
    return next((str(value, "latin-1") for name, value in headers if name == _WARNINGS), "")


def _encoded(headers: Mapping[str, str]) -> _Pairs:
    # A tenant may have any name; a header has the letters of ISO 8859-1.
    return [
        (name.encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in headers.items()
    ]
