"""Answer: one answer's way from tokens to text.

In: the tokens and logprobs of a step. Out: a CompletionDelta. Owns the text position, the stop
strings, the parts and the token counts of its answer. Knows nothing of the request it belongs to.
"""

from __future__ import annotations

from headrace.core.output import CompletionDelta, FinishReason, PositionLogprobs, TokenLogprob
from headrace.core.request import SamplingParams
from headrace.core.step import RequestProgress, TokenLogprobs
from headrace.text.answer_parts import TEXT_ALONE, AnswerFormat, AnswerParts, Parts, join_parts
from headrace.text.detokenizer import IncrementalDetokenizer
from headrace.text.stop_strings import StopStringBuffer
from headrace.text.tokenizer import Tokenizer

REPETITION_DETECTED = "repetition_detected"
"""vLLM's word, in place of a stop text."""


class Answer:
    """Text, count and end of answer `index`. Tokens after its end are not taken.

    `finish_reason` is the engine's: an answer with calls has ended by itself, with "stop".
    """

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer,
        sampling: SamplingParams,
        answer_format: AnswerFormat = TEXT_ALONE,
    ) -> None:
        self.index = index
        self.num_output_tokens = 0
        self.num_reasoning_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._detokenizer = IncrementalDetokenizer(
            tokenizer,
            sampling.skip_special_tokens,
            sampling.spaces_between_special_tokens,
            answer_format.shown_token_ids,
        )
        self._stops = StopStringBuffer(
            tuple(sampling.stop), include=sampling.include_stop_str_in_output
        )
        self._parts = AnswerParts(answer_format)

    def append(self, progress: RequestProgress) -> CompletionDelta:
        """Take a step's tokens up to the first stop string, and say what the answer gained.

        The token that completes a stop string counts as output. A stop token counts, but its text
        is shown only with `include_stop_str_in_output`. Mutates: self.
        """
        if self._sampling.max_tokens == 0:
            progress = _without_tokens(progress)
        gained: list[Parts] = []
        num_taken = 0
        ends_by_token = progress.finish_reason == "stop" and not progress.is_complete
        for token_id in progress.new_token_ids:
            num_taken += 1
            self.num_output_tokens += 1
            is_stop_token = ends_by_token and num_taken == len(progress.new_token_ids)
            if is_stop_token and not self._sampling.include_stop_str_in_output:
                break
            if self._take_token(token_id, gained):
                break
        self._finish(progress, gained)
        return self._delta(progress, num_taken, join_parts(gained))

    def _take_token(self, token_id: int, gained: list[Parts]) -> bool:
        """Take a token's text; True when the answer ends with it."""
        was_reasoning = self._parts.is_reasoning
        is_stopped = self._take_text(self._decode(token_id), gained)
        self.num_reasoning_tokens += was_reasoning or self._parts.is_reasoning
        return is_stopped or self._parts.is_over

    def _decode(self, token_id: int) -> str:
        """Complete characters; a padding id past the vocabulary has none."""
        known = (token_id,) if token_id < self._tokenizer.vocab_size else ()
        return self._detokenizer.append(known)

    def _take_text(self, text: str, gained: list[Parts]) -> bool:
        """Pass text through the stop strings and part it; True when a stop string is complete.

        Source: vLLM lets stop strings pass that end within the first `min_tokens` tokens.
        """
        is_early = self.num_output_tokens <= self._sampling.min_tokens
        result = self._stops.append(text, ignore=is_early)
        gained.append(self._parts.append(result.text))
        return result.stop is not None

    def _finish(self, progress: RequestProgress, gained: list[Parts]) -> None:
        """Settle why the answer ended, if it did, and release the text held back."""
        if self._stops.stop is None and progress.finish_reason is not None:
            self._take_text(self._detokenizer.flush(), gained)
            gained.append(self._parts.append(self._stops.flush()))
        is_stopped = self._stops.stop is not None or self._parts.is_over
        self.finish_reason = "stop" if is_stopped else progress.finish_reason
        if self.finish_reason is not None:
            is_cut = self._stops.stop is not None or self.finish_reason != "stop"
            gained.append(self._parts.flush(is_cut))

    def _delta(self, progress: RequestProgress, num_taken: int, gained: Parts) -> CompletionDelta:
        logprobs = None
        if self._sampling.logprobs is not None:
            logprobs = tuple(
                to_position(self._tokenizer, entry) for entry in progress.logprobs[:num_taken]
            )
        stop_reason: str | int | None = self._stops.stop
        if stop_reason is None and not self._parts.is_over:
            stop_reason = progress.stop_token_id
        finish_reason = self.finish_reason
        if finish_reason == "repetition":
            stop_reason = REPETITION_DETECTED
        if finish_reason == "stop" and self._parts.has_calls:
            finish_reason = "tool_calls"
        return CompletionDelta(
            index=self.index,
            text=gained.text,
            token_ids=tuple(progress.new_token_ids[:num_taken]),
            logprobs=logprobs,
            finish_reason=finish_reason,
            stop_reason=stop_reason,
            reasoning=gained.reasoning,
            tool_calls=gained.calls,
        )


def _without_tokens(progress: RequestProgress) -> RequestProgress:
    """The end of a prompt that was only read: an engine computes one token, which nobody wants."""
    reason = "length" if progress.finish_reason == "stop" else progress.finish_reason
    return progress._replace(
        new_token_ids=(), logprobs=(), finish_reason=reason, stop_token_id=None, is_complete=False
    )


def to_position(tokenizer: Tokenizer, entry: TokenLogprobs) -> PositionLogprobs:
    """Give a position's tokens their text and exact bytes."""
    return PositionLogprobs(
        chosen=_to_token(tokenizer, entry.token_id, entry.logprob, entry.rank),
        top=tuple(
            _to_token(tokenizer, token_id, logprob, rank)
            for rank, (token_id, logprob) in enumerate(
                zip(entry.top_token_ids, entry.top_logprobs, strict=True), start=1
            )
        ),
    )


def _to_token(tokenizer: Tokenizer, token_id: int, logprob: float, rank: int) -> TokenLogprob:
    raw = tokenizer.token_bytes(token_id) if token_id < tokenizer.vocab_size else b""
    return TokenLogprob(token_id, raw.decode("utf-8", "replace"), raw, logprob, rank)
