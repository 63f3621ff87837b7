"""POST /invocations: one address for every kind of request, told apart by what the body has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from headrace.core.errors import RequestError
from headrace.server.openai_chat import create_chat_completion
from headrace.server.openai_completions import create_completion
from headrace.server.openai_embeddings import create_embeddings
from headrace.server.replies import EventReply, JsonReply
from headrace.server.services import Call, Services

_ROUTES: dict[str, Callable[[Services, Call], Awaitable[JsonReply | EventReply]]] = {
    "messages": create_chat_completion,
    "prompt": create_completion,
    "input": create_embeddings,
}


async def invoke(services: Services, call: Call) -> JsonReply | EventReply:
    """Answer as the route would whose input the body has.

    Raises: RequestError when it has none; what the route raises.
    """
    for name, answer in _ROUTES.items():
        if call.body.get(name) is not None:
            return await answer(services, call)
    names = ", ".join(_ROUTES)
    raise RequestError(f"The request body has none of {names}; give one.", next(iter(_ROUTES)))
