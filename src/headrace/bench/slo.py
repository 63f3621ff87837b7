"""A service level objective: the latency that a request must keep to count as good.

In: text such as `ttft=500ms,tpot=50ms`. Out: an Slo, and whether an outcome meets it. Goodput is
the rate of requests that do.
"""

from __future__ import annotations

from collections.abc import Callable

from headrace.bench.duration import parse_seconds
from headrace.bench.outcome import Outcome
from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen

_FIELD = "--slo"
_MEASURES: dict[str, Callable[[Outcome], float | None]] = {
    "ttft": lambda outcome: outcome.ttft_s,
    "tpot": lambda outcome: outcome.tpot_s,
    "itl": lambda outcome: max(outcome.itl_s, default=None),
    "e2e": lambda outcome: outcome.e2e_s,
}
_ALLOWED = f"limits such as ttft=500ms,tpot=50ms, of {', '.join(_MEASURES)}, each once"


@frozen
class Slo:
    """Limits by measure, in the order given. Units: seconds. `itl` limits the longest gap."""

    limits_s: tuple[tuple[str, float], ...]

    def is_met_by(self, outcome: Outcome) -> bool:
        """Finished, and within every limit. A measure that an answer lacks limits nothing.

        An answer of one token has no time per output token.
        """
        if not outcome.is_finished:
            return False
        found = ((_MEASURES[name](outcome), limit_s) for name, limit_s in self.limits_s)
        return all(value_s is None or value_s <= limit_s for value_s, limit_s in found)


def parse_slo(text: str) -> Slo:
    """Read what a person wrote.

    Raises: ConfigError.
    """
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, equals, limit = (piece.strip() for piece in part.partition("="))
        if not equals or name not in _MEASURES:
            raise ConfigError(_FIELD, text, _ALLOWED, f"The part {part.strip()!r} is none of them.")
        if name in limits:
            raise ConfigError(_FIELD, text, _ALLOWED, f"{name} stands there twice.")
        limits[name] = parse_seconds(limit, f"{_FIELD} {name}")
        if limits[name] == 0:
            raise ConfigError(f"{_FIELD} {name}", limit, "more than 0", "Nothing takes no time.")
    return Slo(tuple(limits.items()))
