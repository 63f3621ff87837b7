"""The routes: which path is answered by which handler, and in whose words.

In: Services. Out: routes for the router of the ASGI app. A new route is a line here.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

import msgspec
from starlette.routing import Route

from headrace.server.adapter_routes import load_adapter, unload_adapter
from headrace.server.anthropic_dialect import ANTHROPIC, VERSION_HEADER
from headrace.server.anthropic_messages import count_message_tokens, create_message
from headrace.server.batches import BATCHES_NAMES, BatchRoutes
from headrace.server.debug_requests import report_requests
from headrace.server.dialect import OPENAI, Dialect
from headrace.server.endpoints import (
    Inference,
    InferenceEndpoint,
    QueryReader,
    Report,
    ReportEndpoint,
    Resource,
    ResourceEndpoint,
)
from headrace.server.engine_control import is_paused, pause, reset_prefix_cache, resume
from headrace.server.files import (
    FILES_NAMES,
    create_file,
    delete_file,
    list_files,
    retrieve_content,
    retrieve_file,
)
from headrace.server.front_page import report_front_page
from headrace.server.health import (
    HEALTH_NAMES,
    report_health,
    report_load,
    report_metrics,
    report_version,
)
from headrace.server.http_metrics import NamedRoute
from headrace.server.model_control import is_sleeping, reload_model, sleep, wake_up
from headrace.server.openai_chat import create_chat_completion
from headrace.server.openai_completions import create_completion
from headrace.server.openai_embeddings import create_embeddings
from headrace.server.openai_models import list_models, retrieve_model
from headrace.server.openai_responses import count_input_tokens, create_response
from headrace.server.openapi import describe_routes
from headrace.server.pair_scores import create_classes, create_ranking, create_scores
from headrace.server.replies import JsonReply
from headrace.server.server_info import report_server
from headrace.server.services import Services
from headrace.server.stored_responses import (
    ITEMS_NAMES,
    RESPONSE_NAMES,
    cancel_response,
    delete_response,
    list_input_items,
    retrieve_response,
)
from headrace.server.vllm_invocations import invoke
from headrace.server.vllm_tokenizer import detokenize, report_tokenizer, tokenize

# What the lines of a batch may ask.
BATCH_ENDPOINTS: dict[str, Inference] = {
    "/v1/chat/completions": create_chat_completion,
    "/v1/completions": create_completion,
    "/v1/embeddings": create_embeddings,
    "/v1/responses": create_response,
}


def make_routes(services: Services) -> list[Route]:
    """Every route."""
    reports: tuple[tuple[str, Report], ...] = (
        ("/version", report_version),
        ("/load", report_load),
        ("/metrics", report_metrics),
        ("/tokenizer_info", report_tokenizer),
    )
    inference: tuple[tuple[str, Inference], ...] = (
        ("/v1/chat/completions", create_chat_completion),
        ("/v1/completions", create_completion),
        ("/v1/embeddings", create_embeddings),
        *((path, create_scores) for path in ("/score", "/v1/score")),
        *((path, create_ranking) for path in ("/rerank", "/v1/rerank", "/v2/rerank")),
        ("/classify", create_classes),
        ("/tokenize", tokenize),
        ("/detokenize", detokenize),
        ("/invocations", invoke),
        ("/v1/messages", create_message),
        ("/v1/messages/count_tokens", count_message_tokens),
        ("/v1/responses", create_response),
        ("/v1/responses/input_tokens", count_input_tokens),
    )
    # Those who look at every name of their query: of orders, and in the words of two dialects.
    orders: tuple[tuple[str, str, Resource], ...] = (
        ("/sleep", "POST", sleep),
        ("/wake_up", "POST", wake_up),
        ("/is_sleeping", "GET", is_sleeping),
        ("/pause", "POST", pause),
        ("/resume", "POST", resume),
        ("/is_paused", "GET", is_paused),
        ("/reset_prefix_cache", "POST", reset_prefix_cache),
        ("/server_info", "GET", report_server),
        ("/debug/requests", "GET", report_requests),
        ("/v1/models", "GET", list_models),
        ("/v1/models/{name:path}", "GET", retrieve_model),
        ("/v1/models/{name:path}/reload", "POST", reload_model),
    )
    # By method: what is kept under a name, and what begins work without waiting for it.
    batches = BatchRoutes(BATCH_ENDPOINTS)
    response = QueryReader(retrieve_response, RESPONSE_NAMES)
    health = QueryReader(report_health, HEALTH_NAMES)
    resources: tuple[tuple[str, Mapping[str, Resource | QueryReader]], ...] = (
        ("/", {"GET": report_front_page}),
        ("/health", {"GET": health}),
        ("/ping", {"GET": health, "POST": health}),
        *((path, {method: QueryReader(answer)}) for path, method, answer in orders),
        ("/v1/responses/{id}", {"GET": response, "DELETE": delete_response}),
        ("/v1/responses/{id}/cancel", {"POST": cancel_response}),
        ("/v1/responses/{id}/input_items", {"GET": QueryReader(list_input_items, ITEMS_NAMES)}),
        ("/v1/load_lora_adapter", {"POST": load_adapter}),
        ("/v1/unload_lora_adapter", {"POST": unload_adapter}),
        ("/v1/files", {"GET": QueryReader(list_files, FILES_NAMES), "POST": create_file}),
        ("/v1/files/{id}", {"GET": retrieve_file, "DELETE": delete_file}),
        ("/v1/files/{id}/content", {"GET": retrieve_content}),
        ("/v1/batches", {"GET": QueryReader(batches.list, BATCHES_NAMES), "POST": batches.create}),
        ("/v1/batches/{id}", {"GET": batches.retrieve}),
        ("/v1/batches/{id}/cancel", {"POST": batches.cancel}),
    )
    # The router asks one after the other: those of models first.
    routes: list[Route] = [
        *(
            NamedRoute(path, InferenceEndpoint(services, make, dialect_of(path)), methods=["POST"])
            for path, make in inference
        ),
        *(
            NamedRoute(path, ReportEndpoint(services, report), methods=["GET"])
            for path, report in reports
        ),
        *(
            NamedRoute(path, ResourceEndpoint(services, by_method), methods=list(by_method))
            for path, by_method in resources
        ),
    ]

    def report_routes(services: Services) -> JsonReply:
        """This document."""
        return JsonReply(msgspec.json.encode(describe_routes(services, routes)))

    document = ReportEndpoint(services, report_routes)
    routes.append(NamedRoute("/openapi.json", document, methods=["GET"]))
    return routes


def dialect_of(path: str, headers: Container[str] = ()) -> Dialect:
    """Whose words errors and headers of a path use, whether or not there is such a route."""
    is_anthropic = f"{path}/".startswith("/v1/messages/") or (
        VERSION_HEADER in headers and f"{path}/".startswith("/v1/models/")
    )
    return ANTHROPIC if is_anthropic else OPENAI
