"""GET /v1/models and /v1/models/{id} for Anthropic's clients, which send `anthropic-version`.

Source: types of the `anthropic` client 2.12.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

import msgspec

from headrace.core.backend import ModelInfo
from headrace.core.errors import InvalidParameter
from headrace.server.anthropic_dialect import ANTHROPIC, check_version
from headrace.server.files import read_limit
from headrace.server.replies import JsonReply
from headrace.server.services import Services, Visit

_LISTED, _MAX_LISTED = 20, 1000
_QUERY = ("limit", "after_id", "before_id")


class ModelBody(msgspec.Struct, frozen=True):
    """Units: `created_at` as RFC 3339, lengths in tokens of prompt and answer together."""

    id: str
    display_name: str
    created_at: str
    max_input_tokens: int
    max_tokens: int
    type: str = "model"
    lifecycle: str = "active"
    line: None = None
    deprecated_at: None = None
    retires_at: None = None


def list_models(services: Services, visit: Visit) -> JsonReply:
    """A page of the served names.

    Raises: InvalidParameter.
    """
    check_version(visit.headers)
    headers = _warned(services, visit, _QUERY)
    names = list(services.models())
    limit = read_limit(visit.query, _LISTED, _MAX_LISTED)
    begin = _place(visit, "after_id", names, -1) + 1
    end = _place(visit, "before_id", names, len(names))
    if "before_id" in visit.query:
        # The page that ends there.
        has_more, begin = end - limit > begin, max(begin, end - limit)
    else:
        has_more = begin + limit < end
    page = names[begin : min(end, begin + limit)]
    body = {
        "data": [_describe(name, services.models()[name]) for name in page],
        "has_more": has_more,
        "first_id": page[0] if page else None,
        "last_id": page[-1] if page else None,
    }
    return JsonReply(msgspec.json.encode(body), headers=headers)


def retrieve_model(services: Services, visit: Visit) -> JsonReply:
    """One served name.

    Raises: ModelNotFound, InvalidParameter.
    """
    check_version(visit.headers)
    name, headers = visit.path["name"], _warned(services, visit, ())
    body = _describe(name, services.find_model(name))
    return JsonReply(msgspec.json.encode(body), headers=headers)


def _warned(services: Services, visit: Visit, known: Collection[str]) -> dict[str, str]:
    """The header that names what of the query has no effect. Raises: RequestError."""
    known = (*known, *ANTHROPIC.query_names)
    return services.warned([name for name in visit.query if name not in known])


def _place(visit: Visit, field: str, names: list[str], absent: int) -> int:
    """Where in the list a cursor points. Raises: InvalidParameter."""
    name = visit.query.get(field)
    if name is None:
        return absent
    if name not in names:
        raise InvalidParameter(field, name, f"a served model: {', '.join(names)}")
    return names.index(name)


def _describe(name: str, info: ModelInfo) -> ModelBody:
    created_at = datetime.fromtimestamp(info.created, UTC).isoformat().replace("+00:00", "Z")
    return ModelBody(name, info.root, created_at, info.max_model_len, info.max_model_len)
