"""Token counts of a request. All but input and output are subsets of these, never additions.

Rejected draft tokens are work that reached no answer: they belong to no total.
"""

from __future__ import annotations

from headrace.core.frozen import frozen


@frozen
class Usage:
    """Units: tokens. reasoning_tokens <= output_tokens.

    Of input_tokens, cached_input_tokens were read from a cache, cache_write_tokens written to it
    for minutes and cache_write_1h_tokens for an hour; no token is in two of them.

    `accepted_draft_tokens` of the output were guessed before they were chosen. `is_estimated`: by
    lengths, where nobody counted.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    rejected_draft_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    accepted_draft_tokens: int = 0
    is_estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.rejected_draft_tokens + other.rejected_draft_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            self.accepted_draft_tokens + other.accepted_draft_tokens,
            self.is_estimated or other.is_estimated,
        )

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens
