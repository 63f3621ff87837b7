"""SpeedUp: how much faster answers come with guesses, estimated while they do.

In: steps that went on with answers: tokens, requests, relative times. Out: a ratio, over the last
hundreds of steps. The plain time is that of as many steps with a token for each request.
"""

from __future__ import annotations

_FADING = 0.995


class SpeedUp:
    """Tokens that came, and tokens that plain steps would have brought in the same time."""

    def __init__(self) -> None:
        self._num_tokens = 0.0
        self._num_plain_tokens = 0.0

    @property
    def ratio(self) -> float:
        """1 where nothing was seen, and where guesses change nothing."""
        return self._num_tokens / self._num_plain_tokens if self._num_plain_tokens else 1.0

    def observe(self, num_tokens: int, num_plain_tokens: float) -> None:
        """Take in a step. Mutates: self."""
        self._num_tokens = _FADING * self._num_tokens + num_tokens
        self._num_plain_tokens = _FADING * self._num_plain_tokens + num_plain_tokens
