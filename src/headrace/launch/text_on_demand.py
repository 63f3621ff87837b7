"""TextOnDemand: the text side of a model that is not loaded: whoever needs it has it loaded.

In: how to have it loaded. Out: what its text side says then. Belongs to one event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from headrace.core.backend import ModelText, TokenizerInfo
from headrace.core.errors import CapacityError
from headrace.core.request import GenerateRequest


class TextOnDemand:
    """See core.backend.ModelText. `load` gives the text side once the model is there.

    `check` raises the RequestError of what no load would mend.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Awaitable[ModelText]],
        check: Callable[[GenerateRequest], None],
    ) -> None:
        self._name, self._load, self._check = name, load, check

    async def encode(self, request: GenerateRequest) -> tuple[int, ...]:
        """See core.backend.ModelText."""
        self._check(request)
        return await (await self._load()).encode(request)

    async def decode(self, token_ids: Sequence[int]) -> str:
        """See core.backend.ModelText."""
        return await (await self._load()).decode(token_ids)

    async def token_texts(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        """See core.backend.ModelText."""
        return await (await self._load()).token_texts(token_ids)

    def info(self) -> TokenizerInfo:
        """See core.backend.ModelText. Raises: CapacityError, this cannot wait."""
        raise CapacityError(
            f"{self._name} is not loaded now. Send a request to it, or POST /wake_up, first.",
            is_full=False,
        )
