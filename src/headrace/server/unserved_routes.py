"""Routes that other servers have and this one does not, and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping

_VECTORS = "POST /v1/embeddings gives vectors of texts, whose products compare them."

UNSERVED: Mapping[str, str] = {
    "/pooling": f"It needs a model made for it, and none is loaded. {_VECTORS}",
    "/v2/embed": _VECTORS,
    "/v1/moderations": "There is no model for it, and none can be loaded.",
}
