"""GET /v1/models and /v1/models/{id}: what is served, under the names clients may use.

Both are OpenAI's and Anthropic's: a header says whose form is wanted.
"""

from __future__ import annotations

import msgspec

from headrace.core.backend import ModelInfo, health_of
from headrace.server import anthropic_models
from headrace.server.anthropic_dialect import VERSION_HEADER
from headrace.server.replies import JsonReply
from headrace.server.services import Services, Visit


class ModelBody(msgspec.Struct, frozen=True):
    """`status` is that of `/health?model=`; `unloaded`: the next request has it loaded."""

    id: str
    created: int
    root: str
    max_model_len: int
    status: str
    object: str = "model"
    owned_by: str = "headrace"
    parent: str | None = None
    permission: tuple[()] = ()


async def list_models(services: Services, visit: Visit) -> JsonReply:
    """All served names.

    Raises: InvalidParameter.
    """
    if VERSION_HEADER in visit.headers:
        return anthropic_models.list_models(services, visit)
    headers = services.warned(list(visit.query))
    models = [describe_model(services, name, info) for name, info in services.models().items()]
    return JsonReply(msgspec.json.encode({"object": "list", "data": models}), headers=headers)


async def retrieve_model(services: Services, visit: Visit) -> JsonReply:
    """One served name.

    Raises: ModelNotFound, InvalidParameter.
    """
    if VERSION_HEADER in visit.headers:
        return anthropic_models.retrieve_model(services, visit)
    name, headers = visit.path["name"], services.warned(list(visit.query))
    body = describe_model(services, name, services.find_model(name))
    return JsonReply(msgspec.json.encode(body), headers=headers)


def describe_model(services: Services, name: str, info: ModelInfo) -> ModelBody:
    """A model under the name that clients use; an adapter with that of its model."""
    health = health_of(services.backend, info.name)
    return ModelBody(
        id=name,
        status="unloaded" if health is None else health.status,
        created=info.created,
        root=info.root,
        max_model_len=info.max_model_len,
        parent=None if info.parent is None else _shown(services, info.parent),
    )


def _shown(services: Services, model: str) -> str:
    """The served name of a model of the backend."""
    return next((name for name, info in services.models().items() if info.name == model), model)
