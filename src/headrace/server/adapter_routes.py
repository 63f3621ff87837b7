"""Routes that load and unload LoRA adapters while the server runs: vLLM's names and fields.

In: names and paths of this machine, from keys with the scope admin. Out: what is served now. They
are there for everybody to find, and refused unless server.allow_runtime_adapters is set.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from pydantic import Field

from headrace.core.backend import AdapterControl
from headrace.core.engine_config import ADAPTER_NAME
from headrace.core.errors import (
    InvalidParameter,
    ModelFileError,
    ModelNotFound,
    OutOfMemory,
    RequestError,
)
from headrace.server.error_responses import HttpRefusal
from headrace.server.generation_schema import Strict, allowed, unknown_names, validate
from headrace.server.json_body import read_json_object
from headrace.server.openai_models import describe_model
from headrace.server.origins import check_page
from headrace.server.replies import JsonReply
from headrace.server.services import Services, Visit

_NAME = "a name of letters, digits and . _ : / -, which begins with a letter or digit"
_PATH = "a PEFT folder or a GGUF file on the server's disk"


class LoadFields(Strict):
    lora_name: str = Field(description=_NAME)
    lora_path: str = Field(description=_PATH)
    base_model_name: str | None = allowed("the served model that it was made for")
    load_inplace: bool | None = allowed("true or false: whether the name may be in use")


class _AdapterNotFound(ModelNotFound):
    """No adapter of that name is loaded. `known`: those that are."""

    def __init__(self, name: str, known: Sequence[str], is_model: bool) -> None:
        super().__init__(name, known)
        self.param = "lora_name"
        what = "is a model and no adapter" if is_model else "is no adapter that is loaded"
        self.args = (f"{name!r} {what}. Loaded: {', '.join(known) or 'none'}.",)


class UnloadFields(Strict):
    lora_name: str = Field(description="the name of a loaded adapter")
    lora_int_id: int | None = allowed("a whole number, which means nothing here")


async def load_adapter(services: Services, visit: Visit) -> JsonReply:
    """Load an adapter and serve it under a name of its own.

    Raises: HttpRefusal, RequestError, BackendError.
    """
    control = _control(services, visit)
    body = await read_json_object(visit.receive, visit.headers, services.config, visit.share)
    fields = validate(LoadFields, body)
    warnings = services.warned(unknown_names(fields, ()))
    name, base = fields.lora_name, fields.base_model_name
    if not ADAPTER_NAME.fullmatch(name):
        raise InvalidParameter("lora_name", name, _NAME)
    served = services.models().get(name)
    if served is not None and served.parent is None:
        raise InvalidParameter("lora_name", name, "a name that no model has")
    _check_path(fields.lora_path)
    try:
        info = await control.load_adapter(
            name,
            fields.lora_path,
            base=None if base is None else services.find_model(base).name,
            is_replacing=bool(fields.load_inplace),
        )
    except (ModelFileError, OutOfMemory) as error:
        code = "out_of_memory" if isinstance(error, OutOfMemory) else "invalid_adapter"
        raise RequestError(error.message, "lora_path", code) from None
    return JsonReply(msgspec.json.encode(describe_model(services, name, info)), headers=warnings)


async def unload_adapter(services: Services, visit: Visit) -> JsonReply:
    """Serve an adapter no longer; answers when its last request has ended.

    Raises: HttpRefusal, RequestError, BackendError.
    """
    control = _control(services, visit)
    body = await read_json_object(visit.receive, visit.headers, services.config, visit.share)
    fields = validate(UnloadFields, body)
    warnings = services.warned(unknown_names(fields, ()))
    try:
        await control.unload_adapter(fields.lora_name)
    except ModelNotFound:
        models = services.models()
        known = [name for name, info in models.items() if info.parent is not None]
        raise _AdapterNotFound(fields.lora_name, known, fields.lora_name in models) from None
    removed = {"id": fields.lora_name, "object": "model", "deleted": True}
    return JsonReply(msgspec.json.encode(removed), headers=warnings)


def _control(services: Services, visit: Visit) -> AdapterControl:
    """Raises: HttpRefusal where adapters are not loaded while the server runs."""
    check_page(visit.headers, services.config, visit.caller.key_id is None)
    if not services.config.allow_runtime_adapters:
        raise HttpRefusal(
            404,
            "This server loads no adapters while it runs. Start it with the setting "
            "server.allow_runtime_adapters (--allow-runtime-adapters), or name them with --lora.",
        )
    if not isinstance(services.backend, AdapterControl):
        raise HttpRefusal(404, "The models of this server take no adapters.")
    return services.backend


def _check_path(path: str) -> None:
    """Raises: InvalidParameter for what is no path of any file."""
    is_text = path.isprintable() and bool(path)
    if not is_text:
        raise InvalidParameter("lora_path", path, _PATH)
