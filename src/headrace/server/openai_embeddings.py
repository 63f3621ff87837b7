"""POST /v1/embeddings: texts to vectors, by the hidden states of the served model.

In: a decoded body and a Backend. Out: one JSON object. Each input is a request of its own that
generates nothing; a window of them runs at a time. Knows nothing of layers or arrays.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import AsyncIterator, Sequence

import msgspec

from headrace.core.backend import ModelInfo
from headrace.core.errors import BackendError, InvalidParameter, TooManyAnswers
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.usage import Usage
from headrace.server.generation_schema import refuse_unsupported, unknown_names, validate
from headrace.server.openai_completions_schema import parse_prompts
from headrace.server.openai_embeddings_schema import (
    EMBEDDINGS_NEUTRAL,
    EMBEDDINGS_REFUSED,
    MAX_INPUTS,
    EmbeddingFields,
    check_dimensions,
    check_truncation_side,
    prompt_of,
    refuse_cut_prompt,
)
from headrace.server.openai_payloads import check_delta, encode
from headrace.server.output_merge import open_batches
from headrace.server.replies import JsonReply
from headrace.server.request_ids import engine_request_id, response_id
from headrace.server.services import Call, Services

# Of one call at a time: enough to fill steps, too few to fill the queue.
_WINDOW = 64

Vector = tuple[float, ...]


class EmbeddingBody(msgspec.Struct, frozen=True):
    index: int
    embedding: list[float] | str
    object: str = "embedding"


class EmbeddingUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, frozen=True):
    data: list[EmbeddingBody]
    model: str
    usage: EmbeddingUsage
    object: str = "list"


async def create_embeddings(services: Services, call: Call) -> JsonReply:
    """Answer an embeddings request.

    Raises: RequestError, CapacityError, BackendError.
    """
    refuse_unsupported(call.body, EMBEDDINGS_REFUSED, EMBEDDINGS_NEUTRAL)
    fields = validate(EmbeddingFields, call.body)
    model = services.find_model(fields.model)
    headers = services.warned(unknown_names(fields, EMBEDDINGS_REFUSED))
    if model.vector_size:  # what gives no vectors says so itself
        check_dimensions(fields, model.vector_size)
    check_truncation_side(fields, model)
    requests = _make_requests(fields, model)
    data: list[EmbeddingBody] = []
    num_tokens = 0
    names = input_names(fields.input, len(requests))
    async for vector, usage in each_vector(services, requests, names):
        data.append(EmbeddingBody(len(data), word_vector(vector, fields)))
        num_tokens += usage.input_tokens
    body = EmbeddingList(data, fields.model, EmbeddingUsage(num_tokens, num_tokens))
    return JsonReply(encode(body), headers=headers)


def _make_requests(fields: EmbeddingFields, model: ModelInfo) -> list[GenerateRequest]:
    inputs = parse_prompts(fields.input, MAX_INPUTS, "input", "")
    if fields.prompt_name is not None and not all(isinstance(each, str) for each in inputs):
        raise InvalidParameter("prompt_name", fields.prompt_name, "nothing beside token ids")
    answer_id = response_id("embd", None)
    prefix = prompt_of(fields, model)
    if prefix:
        refuse_cut_prompt(fields.truncate_prompt_tokens, model)
    return [
        GenerateRequest(
            request_id=engine_request_id(answer_id, index),
            model=model.name,
            prompt=prefix + text if isinstance(text, str) else text,
            sampling=SamplingParams(max_tokens=1),
            pooling=fields.pooling or model.pooling,
            add_special_tokens=fields.add_special_tokens is not False,
            truncate_prompt_tokens=fields.truncate_prompt_tokens,
            cache_salt=fields.cache_salt or "",
            priority=fields.priority or 0,
        )
        for index, text in enumerate(inputs)
    ]


def input_names(value: object, num_inputs: int) -> list[str]:
    """What callers call each of their inputs."""
    if isinstance(value, list) and not isinstance(value[0], int):
        return [f"input[{index}]" for index in range(num_inputs)]
    return ["input"]


async def each_vector(
    services: Services, requests: Sequence[GenerateRequest], names: Sequence[str]
) -> AsyncIterator[tuple[Vector, Usage]]:
    """Vector and usage of each request, in their order; a window of them runs at a time.

    `names`: what the caller calls the text of each. Raises: RequestError, CapacityError,
    BackendError.
    """
    start, num_together = 0, _WINDOW
    while start < len(requests):
        window = slice(start, start + num_together)
        try:
            found = await _run(services, requests[window], names[window])
        except TooManyAnswers as error:
            num_together = error.max_num_answers
            continue
        start += num_together
        for vector, usage in zip(*found, strict=True):
            yield vector, usage


async def _run(
    services: Services, requests: Sequence[GenerateRequest], names: Sequence[str]
) -> tuple[list[Vector], list[Usage]]:
    """Vectors and usage of some requests, in their order."""
    vectors: dict[int, Vector] = {}
    usages = [Usage()] * len(requests)
    async with open_batches(services.backend, requests, services.config, names) as batches:
        async for batch in batches:
            for index, output in batch:
                usages[index] = output.usage
                for delta in output.deltas:
                    check_delta(delta)
                if output.vector is not None:
                    vectors[index] = output.vector
    if len(vectors) < len(requests):
        raise BackendError("The model gave no vector.")
    return [vectors[index] for index in range(len(requests))], usages


def word_vector(vector: Vector, fields: EmbeddingFields) -> list[float] | str:
    """A vector in its wanted length, of length 1 unless that is not wanted, as 32-bit floats."""
    values = vector[: fields.dimensions]
    length = math.hypot(*values) if fields.normalize is not False else 0.0
    if length:
        values = tuple(value / length for value in values)
    packed = struct.pack(f"<{len(values)}f", *values)
    if fields.encoding_format == "base64":
        return base64.b64encode(packed).decode()
    return list(struct.unpack(f"<{len(values)}f", packed))
