"""StepCosts: how long a step takes, by the number of tokens it computes.

In: seconds of steps that went on with answers only. Out: relative cost of such a step with any
number of tokens. The machine's pace of the moment and the curve's own form are learned apart, so
that a minute in which everything is slow does not look like a long step.
"""

from __future__ import annotations

import math

MAX_TOKENS = 32
"""Of a step with drafts. Beyond, a row costs as much as it can bring."""

# Seconds relative to one token: qwen2.5-coder 0.5B and 1.5B, Q4_K_M, two threads, AMX, 300 tokens
# of context. Products of up to 12 rows and of more run in different kernels.
_FIRST_GUESS = {
    1: 1.0, 2: 1.07, 3: 1.16, 4: 1.31, 5: 1.45, 6: 1.64, 8: 2.1, 10: 2.55, 12: 2.9, 13: 2.7,
    16: 3.0, 24: 4.2, 32: 5.4,
}  # fmt: skip
# Of each token beyond them: chunks of a prompt.
_MORE_TOKENS = 0.07
_PACE_SHARE = 0.2
_MAX_PACE_CHANGE = 1.0
"""A step that took more than twice what was expected was disturbed; it counts as twice."""
_FORM_SHARE = 0.04
_MAX_FORM_CHANGE = 0.25
"""The pace changes in a few steps, so a large surprise says little about the curve's form."""
_NUM_FIRST = 5
_RATIO_SHARE = 0.1
_REST_SHARE = 0.005


class StepCosts:
    """Costs of steps with 1 to MAX_TOKENS tokens. Units: steps of one token, as first guessed."""

    def __init__(self) -> None:
        self._costs = [0.0, *(first_guess(count) for count in range(1, MAX_TOKENS + 1))]
        self._pace_s = math.inf
        self._num_seen = 0
        self.is_held = False
        """Nothing is learned."""

    def observe(self, num_tokens: int, seconds: float) -> None:
        """Take in a step. The first ones may wait for weights. Mutates: self."""
        if self.is_held or not 1 <= num_tokens <= MAX_TOKENS or seconds <= 0:
            return
        self._num_seen += 1
        if self._num_seen <= _NUM_FIRST:
            self._pace_s = min(self._pace_s, seconds / self._costs[num_tokens])
            return
        surprise = seconds / (self._costs[num_tokens] * self._pace_s) - 1
        self._pace_s *= 1 + _PACE_SHARE * min(surprise, _MAX_PACE_CHANGE)
        form_change = min(max(surprise, -_MAX_FORM_CHANGE), _MAX_FORM_CHANGE)
        self._costs[num_tokens] *= 1 + _FORM_SHARE * form_change

    def cost(self, num_tokens: int) -> float:
        """Relative time of a step. `num_tokens` is at most MAX_TOKENS."""
        return self._costs[num_tokens]

    def relative(self, seconds: float) -> float | None:
        """A time at the pace of the moment; None before there is one."""
        return None if math.isinf(self._pace_s) else seconds / self._pace_s


class PassCosts:
    """Costs of a draft model's passes. Units: those of the target's StepCosts.

    Only how much cheaper than the target's it is, is learned: guesses of a few tokens and chunks of
    a prompt apart.
    """

    def __init__(self, ratio: float) -> None:
        """`ratio`: the first guess of a pass's cost, relative to the target's."""
        self._first = ratio
        self._ratios = [ratio, ratio]

    def observe(self, num_tokens: int, relative: float) -> None:
        """Take in a pass. Mutates: self."""
        kind = num_tokens > MAX_TOKENS // 2
        ratio = relative / first_guess(num_tokens)
        change = min(ratio / self._ratios[kind] - 1, _MAX_PACE_CHANGE)
        self._ratios[kind] *= 1 + _RATIO_SHARE * change

    def rest(self) -> None:
        """No pass was taken. Mutates: self.

        Passes that do not pay are not taken, so their cost is not seen again: what a disturbed
        minute has taught is forgotten by and by, until one is tried.
        """
        for kind, ratio in enumerate(self._ratios):
            self._ratios[kind] = ratio - _REST_SHARE * max(0.0, ratio - self._first)

    def cost(self, num_tokens: int) -> float:
        """Relative time of a pass over any number of tokens."""
        return self._ratios[num_tokens > MAX_TOKENS // 2] * first_guess(num_tokens)


def first_guess(num_tokens: int) -> float:
    """Relative time of a step, before any was seen."""
    if num_tokens > MAX_TOKENS:
        return _FIRST_GUESS[MAX_TOKENS] + _MORE_TOKENS * (num_tokens - MAX_TOKENS)
    below = max(count for count in _FIRST_GUESS if count <= num_tokens)
    above = min(count for count in _FIRST_GUESS if count >= num_tokens)
    if below == above:
        return _FIRST_GUESS[below]
    share = (num_tokens - below) / (above - below)
    return _FIRST_GUESS[below] + share * (_FIRST_GUESS[above] - _FIRST_GUESS[below])
