"""Metered: the Backend that one call of one caller sees.

In: requests of a call. Out: the same in the caller's name, to the backend behind. Knows neither
HTTP nor what answers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from headrace.core.backend import Backend, Health, ModelInfo
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest
from headrace.core.stores import Caller


class Metered:
    """Stands for `backend` during a call: no request of the call can go out in another name."""

    def __init__(self, backend: Backend, caller: Caller) -> None:
        self._backend, self._caller = backend, caller

    def models(self) -> Sequence[ModelInfo]:
        """See core.backend.Backend."""
        return self._backend.models()

    def health(self) -> Health:
        """See core.backend.Backend."""
        return self._backend.health()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        """See core.backend.Backend."""
        return await self._backend.generate(replace(request, tenant=self._caller.tenant))
