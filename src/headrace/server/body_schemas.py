"""The fields of bodies by route: the model that a handler checks them with, and what it refuses.

Read by what describes routes: `openapi`, and the reference pages. Routes that fill in fields before
they check them, or leave a body to another route, are not here.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from headrace.server.anthropic_schema import MESSAGES_REFUSED, MessageFields, PromptFields
from headrace.server.openai_chat_schema import CHAT_REFUSED, ChatCompletionFields
from headrace.server.openai_completions_schema import COMPLETIONS_REFUSED, CompletionFields
from headrace.server.openai_embeddings_schema import EMBEDDINGS_REFUSED, EmbeddingFields
from headrace.server.openai_responses_schema import RESPONSES_REFUSED, ResponsesFields
from headrace.server.pair_scores_schema import (
    PAIRS_REFUSED,
    ClassifyFields,
    RerankFields,
    ScoreFields,
)
from headrace.server.vllm_tokenizer import TOKENIZE_REFUSED, DetokenizeFields, TokenizeFields

BODIES: Mapping[str, tuple[type[BaseModel], Mapping[str, str]]] = {
    "/v1/chat/completions": (ChatCompletionFields, CHAT_REFUSED),
    "/v1/completions": (CompletionFields, COMPLETIONS_REFUSED),
    "/v1/embeddings": (EmbeddingFields, EMBEDDINGS_REFUSED),
    **dict.fromkeys(("/score", "/v1/score"), (ScoreFields, PAIRS_REFUSED)),
    **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), (RerankFields, PAIRS_REFUSED)),
    "/classify": (ClassifyFields, PAIRS_REFUSED),
    "/v1/messages": (MessageFields, MESSAGES_REFUSED),
    "/v1/messages/count_tokens": (PromptFields, MESSAGES_REFUSED),
    "/tokenize": (TokenizeFields, TOKENIZE_REFUSED),
    "/detokenize": (DetokenizeFields, {}),
    "/v1/responses": (ResponsesFields, RESPONSES_REFUSED),
}
