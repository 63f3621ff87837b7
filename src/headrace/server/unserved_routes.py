"""Paths without a route: those of other servers, wrong base addresses, and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping

_VECTORS = "POST /v1/embeddings gives vectors of texts, whose products compare them."

UNSERVED: Mapping[str, str] = {
    "/pooling": f"It needs a model made for it, and none is loaded. {_VECTORS}",
    "/v2/embed": _VECTORS,
    "/v1/moderations": "It needs OpenAI's own models. POST /classify gives the labels of a "
    "classifier that is loaded.",
    "/completion": "Use POST /v1/completions.",
    "/props": "Use GET /tokenizer_info.",
    "/slots": "Use GET /debug/requests.",
    "/v1/messages/batches": "POST /v1/files and POST /v1/batches run a file of requests.",
}

# What a client asks for under /v1; it comes without when its base address lacks it.
SERVED_UNDER_V1 = (
    *("/chat/completions", "/completions", "/embeddings", "/messages", "/responses"),
    *("/models", "/files", "/batches"),
)


def hint_at(path: str) -> str:
    """What to do about a path that has no route."""
    if path in SERVED_UNDER_V1:
        return f"It is /v1{path}: OpenAI's clients need a base address that ends in /v1."
    if path.startswith("/v1/v1/"):
        return "The base address has one /v1 too many: Anthropic's clients need it without."
    bare = path.rstrip("/")
    if bare not in ("", path):
        return f"Leave out the slash at its end: {bare[:120]!r}."
    return UNSERVED.get(path, "GET /v1/models lists the models.")
