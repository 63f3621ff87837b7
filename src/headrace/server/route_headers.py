"""Headers of an answer that say which tier served it, and why.

In: the Route of a call. Out: headers with the suffixes that LiteLLM's clients know.
"""

from __future__ import annotations

from headrace.core.routing import Route


def route_headers(route: Route | None) -> dict[str, str]:
    """Empty where nothing is routed."""
    if route is None:
        return {}
    headers = {
        "x-headrace-selected-tier": _plain(route.tier),
        "x-headrace-selected-reason": _plain(route.reason),
        "x-headrace-attempted-fallbacks": str(route.num_fallbacks),
    }
    if route.cache is not None:
        headers["x-headrace-cache-status"] = route.cache
    if route.similarity is not None:
        headers["x-headrace-semantic-similarity"] = f"{route.similarity:.4f}"
    if len(route.attempts) > 1:
        shown = ", ".join(f"{a.tier}/{a.backend} {a.outcome}" for a in route.attempts)
        headers["x-headrace-attempts"] = _plain(shown)
    if route.attempts:
        headers["x-headrace-selected-model"] = _plain(route.attempts[-1].model)
        headers["x-headrace-selected-backend"] = _plain(route.attempts[-1].backend)
    if route.task is not None:
        headers["x-headrace-selected-task"] = _plain(route.task)
    if route.confidence is not None:
        headers["x-headrace-selected-confidence"] = f"{route.confidence:.3f}"
    return headers


def _plain(text: str) -> str:
    """What a header can hold."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
