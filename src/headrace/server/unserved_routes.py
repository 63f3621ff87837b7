"""Routes that other servers have and this one does not, and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping

_VECTORS = "POST /v1/embeddings gives vectors of texts, whose products compare them."
_PAIRS = f"It needs a model that scores pairs of texts, and none is loaded. {_VECTORS}"

UNSERVED: Mapping[str, str] = {
    **dict.fromkeys(("/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"), _PAIRS),
    "/classify": "It needs a model with classes, and none is loaded. The structured output choice "
    "of POST /v1/chat/completions lets a chat model choose.",
    "/pooling": f"It needs a model made for it, and none is loaded. {_VECTORS}",
    "/v2/embed": _VECTORS,
    "/v1/moderations": "There is no model for it, and none can be loaded.",
}
