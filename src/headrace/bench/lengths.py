"""Lengths of prompts and answers: a constant, or a seeded distribution.

In: text such as `128`, `32..512` or `log:32..2048`. Out: token counts, the same for the same seed.
"""

from __future__ import annotations

import math
import random
import re

from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen

_ALLOWED = (
    "a number of tokens (128), a range (32..512, every length as likely), or a logarithmic range "
    "(log:32..2048, every doubling as likely)"
)
_SYNTAX = re.compile(r"(?P<log>log:)?(?P<low>\d{1,9})(?:\.\.(?P<high>\d{1,9}))?")


@frozen
class Lengths:
    """From `low` to `high`, both included. Units: tokens."""

    low: int
    high: int
    is_logarithmic: bool = False

    def draw(self, source: random.Random) -> int:
        """One length. Mutates: source."""
        if not self.is_logarithmic:
            return source.randint(self.low, self.high)
        # Half a token at both ends, so that the ends are as likely as their neighbours.
        drawn = source.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5))
        return min(self.high, max(self.low, round(math.exp(drawn))))

    def __str__(self) -> str:
        if self.low == self.high:
            return str(self.low)
        return f"{'log:' if self.is_logarithmic else ''}{self.low}..{self.high}"


def parse_lengths(text: str, field: str) -> Lengths:
    """Read what a person wrote.

    Raises: ConfigError naming `field`.
    """
    match = _SYNTAX.fullmatch(text.strip())
    if match is None:
        raise ConfigError(field, text, _ALLOWED)
    low = int(match["low"])
    high = low if match["high"] is None else int(match["high"])
    if low < 1:
        raise ConfigError(field, text, _ALLOWED, "The shortest is 1 token.")
    if high < low:
        raise ConfigError(field, text, _ALLOWED, f"{high} is less than {low}; swap them.")
    if match["log"] and match["high"] is None:
        raise ConfigError(field, text, _ALLOWED, "A logarithmic range has two ends.")
    return Lengths(low, high, bool(match["log"]))
