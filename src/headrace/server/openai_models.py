"""GET /v1/models and /v1/models/{id}: what is served, under the names clients may use."""

from __future__ import annotations

import msgspec

from headrace.core.backend import ModelInfo
from headrace.server.replies import JsonReply
from headrace.server.services import Services


class ModelBody(msgspec.Struct, frozen=True):
    id: str
    created: int
    root: str
    max_model_len: int
    object: str = "model"
    owned_by: str = "headrace"
    parent: None = None
    permission: tuple[()] = ()


def list_models(services: Services) -> JsonReply:
    """All served names."""
    models = [_describe(name, info) for name, info in services.models().items()]
    return JsonReply(msgspec.json.encode({"object": "list", "data": models}))


def retrieve_model(services: Services, name: str) -> JsonReply:
    """One served name.

    Raises: ModelNotFound.
    """
    return JsonReply(msgspec.json.encode(_describe(name, services.find_model(name))))


def _describe(name: str, info: ModelInfo) -> ModelBody:
    return ModelBody(
        id=name, created=info.created, root=info.root, max_model_len=info.max_model_len
    )
