"""POST /score, /rerank and /classify: pairs of texts and texts to numbers, as vLLM has them.

In: a decoded body and a Backend whose model classifies, or, for pairs, makes vectors, whose cosine
is the score. Out: one JSON object. Knows nothing of layers or arrays.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import msgspec

from headrace.core.backend import ModelInfo
from headrace.core.errors import InvalidParameter, RequestError
from headrace.core.request import GenerateRequest, Pooling, SamplingParams
from headrace.core.scores import to_scores
from headrace.server.generation_schema import refuse_unsupported, unknown_names, validate
from headrace.server.openai_completions_schema import Prompt, parse_prompts
from headrace.server.openai_embeddings import Vector, each_vector, input_names
from headrace.server.openai_embeddings_schema import refuse_cut_prompt
from headrace.server.openai_payloads import encode
from headrace.server.pair_scores_schema import (
    MAX_PAIRS,
    PAIRS_REFUSED,
    ClassifyFields,
    RerankFields,
    ScoreFields,
    read_documents,
    read_pairs,
    score_names,
)
from headrace.server.replies import JsonReply
from headrace.server.request_ids import engine_request_id, response_id
from headrace.server.services import Call, Services

Fields = ScoreFields | RerankFields | ClassifyFields

# Names of prompts. Source: sentence-transformers, SentenceTransformer.encode_query and _document.
_QUERY, _DOCUMENT = ("query",), ("document", "passage", "corpus")


class TokenCounts(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class Score(msgspec.Struct, frozen=True):
    index: int
    score: float
    object: str = "score"


class ScoreList(msgspec.Struct, frozen=True):
    id: str
    created: int
    model: str
    data: list[Score]
    usage: TokenCounts
    object: str = "list"


class Document(msgspec.Struct, frozen=True):
    text: str


class Rank(msgspec.Struct, frozen=True, omit_defaults=True):
    index: int
    relevance_score: float
    document: Document | None = None


class Ranking(msgspec.Struct, frozen=True):
    id: str
    model: str
    usage: TokenCounts
    results: list[Rank]


class Classes(msgspec.Struct, frozen=True):
    index: int
    label: str
    probs: tuple[float, ...]
    num_classes: int


class ClassList(msgspec.Struct, frozen=True):
    id: str
    created: int
    model: str
    data: list[Classes]
    usage: TokenCounts
    object: str = "list"


async def create_scores(services: Services, call: Call) -> JsonReply:
    """A number for each pair of texts. Raises: RequestError, CapacityError, BackendError."""
    refuse_unsupported(call.body, PAIRS_REFUSED, {})
    fields = validate(ScoreFields, call.body)
    model = services.find_model(fields.model)
    headers = services.warned(unknown_names(fields, PAIRS_REFUSED))
    pairs = read_pairs(fields)
    scores, usage = await _score(
        services, model, fields, _prompted(model, pairs), score_names(fields)
    )
    data = [Score(index, score) for index, score in enumerate(scores)]
    created = int(services.clock.unix_s())
    body = ScoreList(response_id("score", None), created, fields.model, data, usage)
    return JsonReply(encode(body), headers=headers)


async def create_ranking(services: Services, call: Call) -> JsonReply:
    """Documents, the best for a query first. Raises: RequestError, CapacityError, BackendError."""
    refuse_unsupported(call.body, PAIRS_REFUSED, {})
    fields = validate(RerankFields, call.body)
    if fields.top_n is not None and fields.top_n < 1:
        raise InvalidParameter("top_n", fields.top_n, "1 or more")
    if not fields.query:
        raise RequestError("query is empty; give a text.", "query", "invalid_value")
    model = services.find_model(fields.model)
    headers = services.warned(unknown_names(fields, PAIRS_REFUSED))
    documents = read_documents(fields.documents)
    pairs = [(fields.query, document) for document in documents]
    names = [("query", f"documents[{index}]") for index in range(len(documents))]
    prompted = _prompted(model, pairs, _QUERY, _DOCUMENT)
    scores, usage = await _score(services, model, fields, prompted, names)
    # Equal scores stay in the order of the documents.
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    shows = fields.return_documents is not False
    results = [
        Rank(index, scores[index], Document(documents[index]) if shows else None)
        for index in order[: fields.top_n]
    ]
    body = Ranking(response_id("rerank", None), fields.model, usage, results)
    return JsonReply(encode(body), headers=headers)


async def create_classes(services: Services, call: Call) -> JsonReply:
    """The label of each text, and how likely each is.

    Raises: RequestError, CapacityError, BackendError.
    """
    refuse_unsupported(call.body, PAIRS_REFUSED, {})
    fields = validate(ClassifyFields, call.body)
    model = services.find_model(fields.model)
    headers = services.warned(unknown_names(fields, PAIRS_REFUSED))
    if model.kind != "classify":
        hint = "The structured output choice of POST /v1/chat/completions lets a chat model choose."
        raise _unfit(model, "has no classes", hint)
    inputs = parse_prompts(fields.input, MAX_PAIRS, "input", "")
    requests = _make_requests(fields, model, [(each, None) for each in inputs], "classify")
    outputs, usage = await _collect(services, requests, input_names(fields.input, len(inputs)))
    data = []
    for index, output in enumerate(outputs):
        scores = _activate(output, model, fields)
        best = max(range(len(scores)), key=lambda label: scores[label])
        data.append(Classes(index, model.labels[best], scores, len(scores)))
    created = int(services.clock.unix_s())
    body = ClassList(response_id("classify", None), created, fields.model, data, usage)
    return JsonReply(encode(body), headers=headers)


def _prompted(
    model: ModelInfo,
    pairs: Sequence[tuple[str, str]],
    first_names: Sequence[str] = (),
    second_names: Sequence[str] = (),
) -> list[tuple[str, str]]:
    """Pairs with the prompts of an embedding model before them: of those names the first it has,
    else the one that goes before any text. A head reads pairs as they are."""
    first, second = (_prompt(model, names) for names in (first_names, second_names))
    return [(first + one, second + other) for one, other in pairs]


def _is_for_vectors(model: ModelInfo) -> bool:
    """Also a language model that has prompts for texts of which it makes vectors."""
    return model.kind == "embed" or (model.kind == "generate" and bool(model.prompts))


def _prompt(model: ModelInfo, names: Sequence[str]) -> str:
    if not _is_for_vectors(model):
        return ""
    name = next((name for name in names if name in model.prompts), model.default_prompt_name)
    return model.prompts.get(name or "", "")


async def _score(
    services: Services,
    model: ModelInfo,
    fields: ScoreFields | RerankFields,
    pairs: Sequence[tuple[str, str]],
    names: Sequence[tuple[str, str]],
) -> tuple[list[float], TokenCounts]:
    """By a head of one number that reads both texts, or by the cosine of two vectors.

    `names`: what the caller calls the texts of each pair.
    """
    if _is_for_vectors(model):
        refuse_cut_prompt(fields.truncate_prompt_tokens, model)
        # Each text once: a query beside many documents is one of them.
        texts: dict[str, str] = {}
        for pair, its_names in zip(pairs, names, strict=True):
            for text, name in zip(pair, its_names, strict=True):
                texts.setdefault(text, name)
        requests = _make_requests(fields, model, [(text, None) for text in texts], model.pooling)
        vectors, usage = await _collect(services, requests, list(texts.values()))
        by_text = dict(zip(texts, vectors, strict=True))
        return [_cosine(by_text[first], by_text[second]) for first, second in pairs], usage
    if model.kind != "classify" or len(model.labels) != 1:
        what = f"has {len(model.labels)} classes" if model.labels else "scores no pairs of texts"
        raise _unfit(model, what, "A reranker, with one class, does, and an embedding model.")
    requests = _make_requests(fields, model, pairs, "classify")
    outputs, usage = await _collect(services, requests, [second for _, second in names])
    return [_activate(output, model, fields)[0] for output in outputs], usage


def _make_requests(
    fields: Fields,
    model: ModelInfo,
    inputs: Sequence[tuple[Prompt, str | None]],
    pooling: Pooling,
) -> list[GenerateRequest]:
    answer_id = response_id("pool", None)
    adds = fields.add_special_tokens is not False if isinstance(fields, ClassifyFields) else True
    return [
        GenerateRequest(
            request_id=engine_request_id(answer_id, index),
            model=model.name,
            prompt=prompt,
            second_text=second,
            sampling=SamplingParams(max_tokens=1),
            pooling=pooling,
            add_special_tokens=adds,
            truncate_prompt_tokens=fields.truncate_prompt_tokens,
            priority=fields.priority or 0,
        )
        for index, (prompt, second) in enumerate(inputs)
    ]


async def _collect(
    services: Services, requests: Sequence[GenerateRequest], names: Sequence[str]
) -> tuple[list[Vector], TokenCounts]:
    vectors, num_tokens = [], 0
    async for vector, usage in each_vector(services, requests, names):
        vectors.append(vector)
        num_tokens += usage.input_tokens
    return vectors, TokenCounts(num_tokens, num_tokens)


def _activate(output: Vector, model: ModelInfo, fields: Fields) -> tuple[float, ...]:
    return output if fields.use_activation is False else to_scores(output, model.problem_type)


def _cosine(first: Vector, second: Vector) -> float:
    lengths = math.hypot(*first) * math.hypot(*second)
    return math.fsum(map(operator.mul, first, second)) / lengths if lengths else 0.0


def _unfit(model: ModelInfo, what: str, hint: str) -> RequestError:
    return RequestError(f"{model.name} {what}. {hint}", "model", "model_not_supported")
