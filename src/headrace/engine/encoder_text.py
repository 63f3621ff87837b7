"""EncoderText: the text side of an encoder for whoever wants no vector.

In: requests and token ids. Out: token ids and text. Works in the encoder's text thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.core.backend import TokenizerInfo
from headrace.core.errors import RequestError
from headrace.core.request import GenerateRequest
from headrace.engine.encoder_model import EncoderModel
from headrace.engine.text_threads import TextThreads


class EncoderText:
    """See core.backend.ModelText."""

    def __init__(self, model: EncoderModel, threads: TextThreads) -> None:
        self._model, self._threads = model, threads

    async def encode(self, request: GenerateRequest) -> tuple[int, ...]:
        """See core.backend.ModelText."""
        if not isinstance(request.prompt, str):
            raise RequestError(
                "This model is an encoder: it reads a text, not messages. Send the text as prompt.",
                "messages",
                "unsupported_parameter",
            )
        return await self._threads.run(self._encode, request.prompt, request.add_special_tokens)

    async def decode(self, token_ids: Sequence[int]) -> str:
        """See core.backend.ModelText."""
        return await self._threads.run(self._model.tokenizer.decode, token_ids)

    async def token_texts(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        """See core.backend.ModelText."""
        return await self._threads.run(self._texts, token_ids)

    def info(self) -> TokenizerInfo:
        """See core.backend.ModelText."""
        tokenizer = self._model.tokenizer
        return TokenizerInfo(
            vocab_size=tokenizer.vocab_size,
            special_tokens=tokenizer.special_tokens,
            eos_token_ids=tuple(sorted(tokenizer.eos_token_ids)),
            adds_bos=tokenizer.adds_bos,
            chat_template=None,
        )

    def _encode(self, text: str, add_special_tokens: bool) -> tuple[int, ...]:
        (tokens,) = self._model.encode([text], add_special_tokens)
        return tuple(tokens.ids)

    def _texts(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        return tuple(self._model.tokenizer.decode([token_id]) for token_id in token_ids)
