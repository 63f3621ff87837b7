"""Backend: whatever answers requests (engine, upstream, router, fake)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A served model. Units: `created` unix seconds, `max_model_len` tokens.

    `template_variables` are the names its chat template reads beside messages and tools.
    """

    name: str
    max_model_len: int
    created: int
    root: str
    has_chat_template: bool = True
    template_variables: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Health:
    """`ready` means that tokens can move."""

    status: Literal["starting", "ready", "stalled", "draining", "dead"]
    detail: str = ""


class Backend(Protocol):
    """Answers generation requests."""

    def models(self) -> Sequence[ModelInfo]:
        """The models served, the default one first."""
        ...

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        """Admit the request, then return its stream; closing the stream aborts the request.

        Raises: RequestError, CapacityError, BackendError before the stream exists; in it,
        BackendError.
        """
        ...

    def health(self) -> Health: ...
