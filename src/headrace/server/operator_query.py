"""What a call to an operator's route asks for: all of it in the query, and all of it known.

In: a Visit. Out: nothing, or a refusal. A name that is misspelt, or stands in a body that nobody
reads, would otherwise pause, unload or reload everything instead of what was meant.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import ClientDisconnect

from headrace.core.errors import RequestError
from headrace.server.services import Visit

_NOTHING = (b"", b"{}", b"null")
_MAX_LOOKED_AT = 4096


def check_query(visit: Visit, known: Sequence[str]) -> None:
    """Raises: RequestError for a name that the route does not have, or has twice."""
    names = [name for name, _ in visit.query.multi_items()]
    allowed = " and ".join(known) or "nothing"
    for name in names:
        if name not in known:
            raise RequestError(
                f"The query has {name[:100]!r}; allowed: {allowed}.", name[:100], "invalid_value"
            )
        if names.count(name) > 1:
            raise RequestError(f"The query has {name} twice; give it once.", name, "invalid_value")


async def check_order(visit: Visit, known: Sequence[str]) -> None:
    """The same of a POST, whose body has to be empty. Raises: RequestError."""
    check_query(visit, known)
    body, is_complete = b"", False
    while not is_complete and len(body) <= _MAX_LOOKED_AT:
        message = await visit.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        is_complete = not message.get("more_body", False)
    if body.strip() not in _NOTHING:
        allowed = " and ".join(known) or "nothing"
        raise RequestError(
            f"This route reads its query and no body; allowed in the query: {allowed}. Send what "
            "the body has there."
        )
