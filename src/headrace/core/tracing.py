"""Traces as records: W3C trace context, spans, and who takes them.

In: headers of callers. Out: contexts for those that are called, spans of what was done. Knows
neither HTTP nor what becomes of a span.
Source: W3C Trace Context, Recommendation of 2021-11-23, sections 3.2 and 3.3.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Literal, Protocol

from headrace.core.frozen import frozen

# Later versions may add fields after the flags.
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_SAMPLED = 0x01
MAX_STATE_LENGTH = 512

AttributeValue = str | bool | int | float | Sequence[str]


@frozen
class TraceContext:
    """A span's place: ids in lower hexadecimal, `parent_id` empty for the first of its trace."""

    trace_id: str
    span_id: str
    parent_id: str = ""
    is_sampled: bool = True
    state: str = ""

    @property
    def traceparent(self) -> str:
        """The header for whoever is called from this span."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.is_sampled):02x}"

    def child(self) -> TraceContext:
        """A new span below this one."""
        return TraceContext(
            self.trace_id, secrets.token_hex(8), self.span_id, self.is_sampled, self.state
        )


@frozen
class Span:
    """What was done, and when. Units: seconds of Unix."""

    name: str
    context: TraceContext
    begin_s: float
    end_s: float
    kind: Literal["server", "internal"] = "internal"
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    error: str | None = None


@frozen
class TracedHistogram:
    """A histogram of the gen_ai conventions. `buckets` are upper edges."""

    name: str
    help: str
    buckets: tuple[float, ...]
    unit: str = "s"


class SpanSink(Protocol):
    """Takes spans and measurements without waiting, and loses rather than blocks."""

    def add(self, span: Span) -> None:
        """Take a span that has ended."""
        ...

    def observe(
        self, histogram: TracedHistogram, value: float, attributes: Mapping[str, AttributeValue]
    ) -> None:
        """Put a value into a histogram."""
        ...

    def close(self) -> None:
        """Send what waits. Blocks."""
        ...


def parse_traceparent(text: str | None, state: str | None = None) -> TraceContext | None:
    """The caller's span; None for no header or one that is not valid, which is not passed on."""
    found = _TRACEPARENT.fullmatch((text or "").strip())
    if found is None:
        return None
    version, trace_id, span_id, flags = found.groups()
    is_longer = len((text or "").strip()) > 55
    if not int(trace_id, 16) or not int(span_id, 16) or (version == "00" and is_longer):
        return None
    kept = state if state is not None and len(state) <= MAX_STATE_LENGTH else ""
    return TraceContext(trace_id, span_id, "", bool(int(flags, 16) & _SAMPLED), kept)


def begin_trace(caller: TraceContext | None, sample_ratio: float) -> TraceContext:
    """The span of a call: below its caller's, who decides whether it is kept; else a new trace."""
    if caller is not None:
        return caller.child()
    trace_id = secrets.token_hex(16)
    # The last seven bytes are the random ones in every way to make ids.
    is_sampled = int(trace_id[-14:], 16) < sample_ratio * 2**56
    return TraceContext(trace_id, secrets.token_hex(8), "", is_sampled)
