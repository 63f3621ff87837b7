"""What became of one request: when it was due, when its text came, how many tokens, or why not.

In: nothing; targets and `load` fill it. Out: times as reports use them. All times are seconds on
one clock; those of an Outcome count from the beginning of the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.core.frozen import frozen


class RequestFailed(Exception):
    """A request that a target could not finish. `kind` is a short name that reports count by.

    `code` is the server's own name of what is wrong, where it has one.
    """

    def __init__(self, kind: str, message: str, code: str | None = None) -> None:
        self.kind, self.message, self.code = kind, message, code
        super().__init__(f"{kind}: {message}")


@dataclass(slots=True)
class Hearing:
    """What a target has heard of an answer so far; its only writer is the target.

    `event_s` holds the moment of every event that brought text. Token counts are None until the
    target is told them: nothing here is estimated.
    """

    event_s: list[float] = field(default_factory=list)
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None


@frozen
class Failure:
    """Why a request did not finish."""

    kind: str
    message: str


@frozen(kw_only=True)
class Outcome:
    """One request, as its caller sees it.

    `scheduled_s` is when it was due: the arrival of an open loop, whether or not the client was on
    time; in a closed loop, when its place became free. Latencies count from there.
    `asked_output_tokens` is the limit the request named. Units: seconds, tokens.
    """

    index: int
    scheduled_s: float
    sent_s: float
    end_s: float
    event_s: tuple[float, ...]
    asked_output_tokens: int
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    failure: Failure | None = None

    @property
    def is_finished(self) -> bool:
        return self.failure is None

    @property
    def send_delay_s(self) -> float:
        """How late the client itself was."""
        return self.sent_s - self.scheduled_s

    @property
    def ttft_s(self) -> float | None:
        """From when the request was due to its first text."""
        return self.event_s[0] - self.scheduled_s if self.event_s else None

    @property
    def e2e_s(self) -> float | None:
        """From when the request was due to the end of its answer; None when it failed."""
        return self.end_s - self.scheduled_s if self.is_finished else None

    @property
    def tpot_s(self) -> float | None:
        """Mean time per output token after the first; None for answers of one token or event."""
        if self.output_tokens is None or self.output_tokens < 2 or len(self.event_s) < 2:
            return None
        return (self.event_s[-1] - self.event_s[0]) / (self.output_tokens - 1)

    @property
    def itl_s(self) -> tuple[float, ...]:
        """Times between events that brought text."""
        return tuple(b - a for a, b in zip(self.event_s, self.event_s[1:], strict=False))
