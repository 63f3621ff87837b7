"""Arithmetic of one step: the limits, and how many tokens are left to give. Knows no requests."""

from __future__ import annotations

from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen


@frozen(kw_only=True)
class SchedulerLimits:
    """What a step and the queue may hold.

    Fields:
        max_num_batched_tokens: tokens in one step. max_num_seqs: requests that run at once.
        max_mixed_prompt_tokens: of prompts, in a step that also goes on with answers.
        max_mixed_background_tokens: of background requests, while there is any other one.
        max_waiting_requests: requests beyond the running ones before new ones are refused.
        max_model_len: tokens of prompt and output together.
        num_lookahead_tokens: of an answer, beyond those it has: slots that a draft model needs.
    """

    max_num_batched_tokens: int
    max_num_seqs: int
    max_waiting_requests: int
    max_model_len: int
    max_mixed_prompt_tokens: int | None = None
    max_mixed_background_tokens: int = 0
    num_lookahead_tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_model_len"):
            if getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "1 or more")
        if self.max_waiting_requests < 0:
            raise ConfigError("max_waiting_requests", self.max_waiting_requests, "0 or more")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                "max_num_batched_tokens",
                self.max_num_batched_tokens,
                f"at least max_num_seqs ({self.max_num_seqs})",
                "Every running request computes at least one token per step.",
            )

    @property
    def max_num_requests(self) -> int:
        """Requests that may be unfinished at once: running and waiting."""
        return self.max_num_seqs + self.max_waiting_requests


class TokenBudget:
    """Tokens that a step may still compute. `num_background` bounds those of background requests
    within it; None does not."""

    def __init__(self, num_tokens: int, num_background: int | None = None) -> None:
        self.num_left = num_tokens
        self._num_background = num_tokens if num_background is None else num_background

    def has_any(self, is_background: bool = False) -> bool:
        """Whether a request may have a token."""
        return self._left(is_background) > 0

    def take(self, num_wanted: int, is_background: bool = False) -> int:
        """Give as many as are left, at most what is wanted."""
        num_given = min(num_wanted, self._left(is_background))
        self.num_left -= num_given
        if is_background:
            self._num_background -= num_given
        return num_given

    def bound(self, num_tokens: int) -> None:
        """Leave no more than num_tokens."""
        self.num_left = min(self.num_left, num_tokens)

    def _left(self, is_background: bool) -> int:
        return min(self.num_left, self._num_background) if is_background else self.num_left
