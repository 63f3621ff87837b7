"""Target: an engine in this process, asked as `core.Backend`.

In: Asks. Out: what is heard of each answer, counted by the engine itself. Prompts are random token
ids of exact length.
"""

from __future__ import annotations

import re
import time
import uuid
from contextlib import aclosing
from typing import Any

from headrace.bench.measure import PromptSource
from headrace.bench.outcome import Hearing, RequestFailed
from headrace.bench.workload import Ask
from headrace.core.backend import Backend
from headrace.core.errors import HeadraceError
from headrace.core.message import Message
from headrace.core.request import GenerateRequest, SamplingParams


class TokenPrompts:
    """A PromptMaker of random token ids."""

    def __init__(self, vocab_size: int, seed: int) -> None:
        self._source = PromptSource(vocab_size, seed)

    def make(self, num_tokens: int) -> tuple[int, ...]:
        """See workload.PromptMaker."""
        return self._source.prompt(num_tokens)


class EngineTarget:
    """See load.Target."""

    def __init__(self, engine: Backend, *, ignore_eos: bool) -> None:
        self._engine = engine
        self._ignore_eos = ignore_eos
        self._model = engine.models()[0].name

    async def send(self, ask: Ask, hearing: Hearing) -> None:
        """See load.Target."""
        try:
            async with aclosing(await self._engine.generate(self._request(ask))) as outputs:
                async for output in outputs:
                    now_s = time.perf_counter()
                    if any(delta.token_ids for delta in output.deltas):
                        hearing.event_s.append(now_s)
                    hearing.input_tokens = output.usage.input_tokens
                    hearing.cached_input_tokens = output.usage.cached_input_tokens
                    hearing.output_tokens = output.usage.output_tokens
        except HeadraceError as error:
            raise RequestFailed(_kind_of(error), error.message) from None

    def _request(self, ask: Ask) -> GenerateRequest:
        sampling = SamplingParams(
            temperature=0.0, max_tokens=ask.max_tokens, ignore_eos=self._ignore_eos
        )
        prompt: dict[str, Any] = {"prompt": ask.prompt}
        if isinstance(ask.prompt, tuple) and isinstance(ask.prompt[0], Message):
            prompt = {"messages": ask.prompt, "add_special_tokens": False}
        return GenerateRequest(
            request_id=f"bench-{uuid.uuid4().hex[:16]}",
            model=self._model,
            sampling=sampling,
            **prompt,
        )


def _kind_of(error: HeadraceError) -> str:
    """`ContextTooLong` is counted as `context_too_long`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
