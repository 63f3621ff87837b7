"""POST /tokenize and /detokenize, GET /tokenizer_info: the text side of a model, as vLLM has it.

In: a decoded body and a Backend. Out: token ids, text, or what the tokenizer is. Generates nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import Field

from headrace.core.backend import ModelInfo
from headrace.core.errors import InvalidParameter, RequestError
from headrace.core.request import GenerateRequest
from headrace.server.error_responses import worded
from headrace.server.generation_schema import (
    Ids,
    Objects,
    Strict,
    allowed,
    refuse_unsupported,
    unknown_names,
    validate,
)
from headrace.server.openai_chat_schema import is_continuation, parse_messages
from headrace.server.replies import JsonReply
from headrace.server.services import Call, Services
from headrace.server.template_wishes import unread_names
from headrace.server.tool_schema import read_tools

_MODEL = "the name of a served model, as GET /v1/models lists them"


class TokenizeFields(Strict):
    model: str | None = allowed(_MODEL)
    prompt: str | None = allowed("a string; or give messages")
    messages: Objects | None = allowed("a list of messages; or give a prompt")
    tools: list[Any] | None = allowed("a list of tools")
    add_special_tokens: bool | None = allowed("true or false")
    add_generation_prompt: bool | None = allowed("true or false")
    continue_final_message: bool | None = allowed("true or false")
    chat_template_kwargs: dict[str, Any] | None = allowed("an object")
    return_token_strs: bool | None = allowed("true or false")


class DetokenizeFields(Strict):
    model: str | None = allowed(_MODEL)
    tokens: Ids = Field(description="a list of token ids")


TOKENIZE_REFUSED: dict[str, str] = {
    "chat_template": "the model's own template is used. Leave it out.",
    "mm_processor_kwargs": "this model takes text only. Leave it out.",
    "media_io_kwargs": "this model takes text only. Leave it out.",
}
# What belongs to messages alone.
_CHAT_NAMES = ("tools", "add_generation_prompt", "continue_final_message", "chat_template_kwargs")


class Tokens(msgspec.Struct, frozen=True):
    count: int
    max_model_len: int
    tokens: tuple[int, ...]
    token_strs: tuple[str, ...] | None


async def tokenize(services: Services, call: Call) -> JsonReply:
    """Token ids of a prompt or of messages, however many.

    Raises: RequestError.
    """
    refuse_unsupported(call.body, TOKENIZE_REFUSED, {})
    fields = validate(TokenizeFields, call.body)
    model = _find_model(services, fields.model)
    request, unknown = _make_request(fields, model)
    headers = services.warned(unknown)
    text = services.backend.text(model.name)
    token_ids = await text.encode(request)
    token_texts = await text.token_texts(token_ids) if fields.return_token_strs else None
    body = Tokens(len(token_ids), model.max_model_len, token_ids, token_texts)
    return JsonReply(msgspec.json.encode(body), headers=headers)


async def detokenize(services: Services, call: Call) -> JsonReply:
    """The text of token ids, control tokens included.

    Raises: RequestError.
    """
    fields = validate(DetokenizeFields, call.body)
    model = _find_model(services, fields.model)
    headers = services.warned(unknown_names(fields, ()))
    with worded({"token_ids": "tokens"}):
        text = await services.backend.text(model.name).decode(fields.tokens)
    return JsonReply(msgspec.json.encode({"prompt": text}), headers=headers)


def report_tokenizer(services: Services) -> JsonReply:
    """What the default model's tokenizer is.

    Raises: CapacityError while no model is there.
    """
    model = _find_model(services, None)
    info = services.backend.text(model.name).info()
    body = {
        **info.special_tokens,
        "model": next(iter(services.models())),
        "vocab_size": info.vocab_size,
        "eos_token_ids": info.eos_token_ids,
        "add_bos_token": info.adds_bos,
        "model_max_length": model.max_model_len,
        "chat_template": info.chat_template,
    }
    return JsonReply(msgspec.json.encode(body))


def _find_model(services: Services, name: str | None) -> ModelInfo:
    """A model by name, else the default one."""
    if name is not None:
        return services.find_model(name)
    services.check_ready()
    return next(iter(services.models().values()))


def _make_request(fields: TokenizeFields, model: ModelInfo) -> tuple[GenerateRequest, list[str]]:
    if (fields.prompt is None) == (fields.messages is None):
        given = "missing" if fields.prompt is None else "given"
        raise RequestError(f"prompt and messages are both {given}; give one of them.", "prompt")
    unknown = unknown_names(fields, TOKENIZE_REFUSED)
    if fields.messages is None:
        for name in _CHAT_NAMES:
            if getattr(fields, name) is not None:
                raise InvalidParameter(name, getattr(fields, name), "only together with messages")
        return GenerateRequest(
            request_id="tokenize",
            model=model.name,
            prompt=fields.prompt,
            add_special_tokens=fields.add_special_tokens is not False,
        ), unknown
    if fields.add_special_tokens:
        raise InvalidParameter(
            "add_special_tokens", True, "false with messages, whose template writes them"
        )
    messages, unknown_in_messages = parse_messages(fields.messages)
    asked = read_tools(fields.tools, None, None)
    is_continued = is_continuation(fields.continue_final_message, fields.add_generation_prompt)
    request = GenerateRequest(
        request_id="tokenize",
        model=model.name,
        messages=messages,
        tools=asked.tools,
        add_special_tokens=False,
        add_generation_prompt=not is_continued and fields.add_generation_prompt is not False,
        continue_final_message=is_continued,
        chat_template_kwargs=fields.chat_template_kwargs or {},
    )
    unread = unread_names(request.chat_template_kwargs, model, messages)
    return request, [*unknown, *unknown_in_messages, *asked.unknown, *unread]
