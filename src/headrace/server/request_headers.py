"""Headers of a request as a plain map: each route and each check asks for several of them."""

from __future__ import annotations

from starlette.types import Scope


def read_headers(scope: Scope) -> dict[str, str]:
    """By lower-case names, as ASGI has them; of several with one name the first."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    return headers
