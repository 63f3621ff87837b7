"""TokenizerText: the text side of the engine's model for whoever wants no answer.

In: requests and token ids. Out: token ids and text. Works on the engine's text threads, so that
long texts hold up no event loop. Keeps nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.core.backend import TokenizerInfo
from headrace.core.request import GenerateRequest
from headrace.engine.input_processor import InputProcessor
from headrace.engine.text_threads import TextThreads
from headrace.text.tokenizer import Tokenizer


class TokenizerText:
    """See core.backend.ModelText."""

    def __init__(
        self, tokenizer: Tokenizer, input_processor: InputProcessor, threads: TextThreads
    ) -> None:
        self._tokenizer, self._input, self._threads = tokenizer, input_processor, threads

    async def encode(self, request: GenerateRequest) -> tuple[int, ...]:
        """See core.backend.ModelText."""
        _, token_ids, *_ = await self._threads.run(self._input.encode, request)
        return token_ids

    async def decode(self, token_ids: Sequence[int]) -> str:
        """See core.backend.ModelText."""
        return await self._threads.run(self._tokenizer.decode, token_ids)

    async def token_texts(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        """See core.backend.ModelText."""
        return await self._threads.run(self._texts, token_ids)

    def info(self) -> TokenizerInfo:
        """See core.backend.ModelText."""
        tokenizer = self._tokenizer
        return TokenizerInfo(
            vocab_size=tokenizer.vocab_size,
            special_tokens=tokenizer.special_tokens,
            eos_token_ids=tuple(sorted(tokenizer.eos_token_ids)),
            adds_bos=tokenizer.adds_bos,
            chat_template=tokenizer.chat_template,
        )

    def _texts(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        return tuple(self._tokenizer.token_text(token_id) for token_id in token_ids)
