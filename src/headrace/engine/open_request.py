"""OpenRequest: what the output side keeps of a request until it ends.

In: deltas of its answers, progress of its engine requests. Out: RequestOutput. Owns usage, times
and prompt logprobs of one request; written by the output thread only.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.core.output import CompletionDelta, PositionLogprobs, RequestOutput, RequestTimes
from headrace.core.receipt import ResolvedRequest
from headrace.core.step import RequestProgress
from headrace.core.usage import Usage
from headrace.engine.answer import Answer, to_position
from headrace.engine.input_processor import PreparedRequest
from headrace.engine.output_stream import Mailbox
from headrace.text.tokenizer import Tokenizer


class OpenRequest:
    """A request, its answers and its reader."""

    def __init__(
        self, prepared: PreparedRequest, tokenizer: Tokenizer, mailbox: Mailbox, arrived_at_s: float
    ) -> None:
        self.prepared = prepared
        self.mailbox = mailbox
        self.arrived_at_s = arrived_at_s
        self.is_closed = False
        self.first_token_at_s: float | None = None
        self.answers = {
            spec.request_id: Answer(index, tokenizer, spec.sampling, prepared.answer_format)
            for index, spec in enumerate(prepared.specs)
        }
        self.num_output_tokens = 0
        self._num_open_answers = len(self.answers)
        self._tokenizer = tokenizer
        self._num_cached_tokens = 0
        self._num_preemptions: dict[str, int] = {}
        self._drafts: dict[str, tuple[int, int]] = {}
        self._compute_s: dict[str, tuple[float, float]] = {}
        self._queued_at_s: float | None = None
        self._scheduled_at_s: float | None = None
        self._has_output = False
        self._vector: tuple[float, ...] | None = None
        # As it was given; a drawn one as it was drawn.
        given = prepared.sampling.seed
        self._seed = prepared.specs[0].seed if given is None else given
        wants_prompt_logprobs = prepared.sampling.prompt_logprobs is not None
        self._scored: list[PositionLogprobs | None] | None = (
            [None] if wants_prompt_logprobs else None
        )
        self.is_prompt_scored = not wants_prompt_logprobs

    @property
    def is_finished(self) -> bool:
        return self._num_open_answers == 0

    def note(self, progress: RequestProgress) -> None:
        """Keep what a step says about the request as a whole. Mutates: self."""
        if self._scored is not None:
            self._scored += [
                to_position(self._tokenizer, entry) for entry in progress.prompt_logprobs
            ]
        if self.answers[progress.request_id].index == 0:
            self._num_cached_tokens = progress.num_cached_tokens
        self._num_preemptions[progress.request_id] = progress.num_preemptions
        compute_s = progress.prefill_compute_s, progress.decode_compute_s
        self._compute_s[progress.request_id] = compute_s
        if progress.num_draft_tokens:
            drafts = progress.num_draft_tokens, progress.num_accepted_tokens
            self._drafts[progress.request_id] = drafts
        self._vector = progress.vector
        self._queued_at_s = _earlier(self._queued_at_s, progress.queued_at_s)
        self._scheduled_at_s = _earlier(self._scheduled_at_s, progress.scheduled_at_s)

    def output(self, delta: CompletionDelta, now_s: float) -> RequestOutput:
        """Make the output that carries a delta.

        Prompt fields come with the first one. The prompt is scored with answer 0; until its first
        delta the reader is not woken, so the first output it sees has the scores.
        Mutates: self.
        """
        is_first, self._has_output = not self._has_output, True
        is_scored_now = delta.index == 0 and not self.is_prompt_scored
        self.is_prompt_scored = self.is_prompt_scored or is_scored_now
        if delta.token_ids and self.first_token_at_s is None:
            self.first_token_at_s = now_s
        self.num_output_tokens += len(delta.token_ids)
        self._num_open_answers -= delta.finish_reason is not None
        is_finished = self.is_finished
        prompt_ids = self.prepared.prompt_token_ids
        shows_text = is_first and self.prepared.return_prompt_text
        return RequestOutput(
            request_id=self.prepared.request_id,
            deltas=(delta,),
            usage=self.usage,
            is_finished=is_finished,
            prompt_token_ids=prompt_ids if is_first else None,
            prompt_logprobs=tuple(self._scored or ()) if is_scored_now else None,
            times=self.times(now_s) if is_finished else None,
            prompt_text=self._text(prompt_ids) if shows_text else None,
            prompt_tokens=tuple(map(self._token_text, prompt_ids)) if shows_text else None,
            vector=self._vector,
            resolved=self._resolved() if is_first or is_finished else None,
            seed=self._seed,
        )

    def _resolved(self) -> ResolvedRequest:
        prepared = self.prepared
        max_tokens = prepared.sampling.max_tokens or 0
        return ResolvedRequest(max_tokens, prepared.num_truncated_tokens, prepared.draft_acceptance)

    def _text(self, token_ids: Sequence[int]) -> str:
        """Padding ids past the vocabulary have no text."""
        return self._tokenizer.decode([i for i in token_ids if i < self._tokenizer.vocab_size])

    def _token_text(self, token_id: int) -> str:
        is_known = token_id < self._tokenizer.vocab_size
        return self._tokenizer.token_text(token_id) if is_known else ""

    @property
    def usage(self) -> Usage:
        """Running total. The prompt counts once, whatever n is."""
        # A stop string may end an answer before the last token that was accepted.
        num_accepted_tokens = min(
            sum(accepted for _, accepted in self._drafts.values()), self.num_output_tokens
        )
        num_draft_tokens = sum(drafted for drafted, _ in self._drafts.values())
        return Usage(
            input_tokens=len(self.prepared.prompt_token_ids),
            cached_input_tokens=self._num_cached_tokens,
            output_tokens=self.num_output_tokens,
            reasoning_tokens=sum(a.num_reasoning_tokens for a in self.answers.values()),
            rejected_draft_tokens=num_draft_tokens - num_accepted_tokens,
            accepted_draft_tokens=num_accepted_tokens,
        )

    @property
    def num_preemptions(self) -> int:
        return sum(self._num_preemptions.values())

    def times(self, now_s: float) -> RequestTimes:
        """Split the time since it was queued; what was not reached took no time."""
        queued_at_s = self.arrived_at_s if self._queued_at_s is None else self._queued_at_s
        scheduled_at_s = now_s if self._scheduled_at_s is None else self._scheduled_at_s
        first_token_at_s = now_s if self.first_token_at_s is None else self.first_token_at_s
        return RequestTimes(
            queue_s=max(0.0, scheduled_at_s - queued_at_s),
            prefill_s=max(0.0, first_token_at_s - scheduled_at_s),
            decode_s=max(0.0, now_s - first_token_at_s),
            prefill_compute_s=sum(prefill_s for prefill_s, _ in self._compute_s.values()),
            decode_compute_s=sum(decode_s for _, decode_s in self._compute_s.values()),
            num_preemptions=self.num_preemptions,
        )


def _earlier(known_s: float | None, other_s: float | None) -> float | None:
    if known_s is None or other_s is None:
        return other_s if known_s is None else known_s
    return min(known_s, other_s)
