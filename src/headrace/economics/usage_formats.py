"""Usage as providers report it, to Usage: the only place that knows their names of counts.

In: the `usage` of an answer, or the events of a stream. Out: one Usage in which every part is a
subset of its whole, or None when nothing was reported: that is not 0. What contradicts itself is
cut to what can be, so that a bill is never larger than the totals, nor smaller than them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from headrace.core.usage import Usage

UsageFormat = Literal["openai_chat", "openai_responses", "anthropic"]


def read_usage(kind: UsageFormat, reported: object) -> Usage | None:
    """The usage of an answer that came whole; None: there is none."""
    if not isinstance(reported, Mapping):
        return None
    if kind == "anthropic":
        return _from_anthropic(reported)
    if kind == "openai_chat":
        return _from_openai(reported, "prompt_tokens", "completion_tokens")
    return _from_openai(reported, "input_tokens", "output_tokens")


class StreamUsage:
    """Gathers the usage of a stream; give it every event's data, in order."""

    def __init__(self, kind: UsageFormat) -> None:
        self._kind = kind
        self._reported: dict[str, Any] = {}

    @property
    def usage(self) -> Usage | None:
        """What was reported so far; None: nothing."""
        return read_usage(self._kind, self._reported or None)

    def see(self, event: Mapping[str, Any]) -> None:
        """Keep what an event reports: counts are totals, a later one replaces an earlier one."""
        holders: tuple[object, ...] = (event,)
        if self._kind == "openai_responses":
            holders = (event.get("response"),)
        elif self._kind == "anthropic":
            # The first event has the input, the last ones what was generated so far.
            holders = (event.get("message"), event)
        for holder in holders:
            reported = holder.get("usage") if isinstance(holder, Mapping) else None
            if isinstance(reported, Mapping):
                self._reported |= {
                    name: value for name, value in reported.items() if value is not None
                }


def _from_openai(reported: Mapping[str, Any], whole: str, answer: str) -> Usage | None:
    """The whole includes its parts.

    Some (xAI, Gemini) leave reasoning out of the answer's tokens and have it in the total alone:
    what the total has beyond prompt and answer is reasoning.
    """
    if whole not in reported and answer not in reported:
        return None
    details = reported.get(f"{whole}_details")
    num_input, num_output = _count(reported, whole), _count(reported, answer)
    num_reasoning = _count(reported.get(f"{answer}_details"), "reasoning_tokens")
    num_beyond = 0
    if whole in reported and answer in reported:
        num_beyond = max(0, _count(reported, "total_tokens") - num_input - num_output)
    num_output += num_beyond
    # The second name is DeepSeek's.
    num_cached = _count(details, "cached_tokens") or _count(reported, "prompt_cache_hit_tokens")
    cached = min(num_cached, num_input)
    return Usage(
        input_tokens=num_input,
        cached_input_tokens=cached,
        output_tokens=num_output,
        reasoning_tokens=min(max(num_reasoning, num_beyond), num_output),
        cache_write_tokens=min(_count(details, "cache_write_tokens"), num_input - cached),
    )


def _from_anthropic(reported: Mapping[str, Any]) -> Usage | None:
    """`input_tokens` leaves out what was read from and written to the cache."""
    if "input_tokens" not in reported and "output_tokens" not in reported:
        return None
    cached = _count(reported, "cache_read_input_tokens")
    parts = reported.get("cache_creation")
    hour = _count(parts, "ephemeral_1h_input_tokens")
    minutes = _count(parts, "ephemeral_5m_input_tokens")
    written = max(_count(reported, "cache_creation_input_tokens"), hour + minutes)
    num_output = _count(reported, "output_tokens")
    thinking = _count(reported.get("output_tokens_details"), "thinking_tokens")
    return Usage(
        input_tokens=_count(reported, "input_tokens") + cached + written,
        cached_input_tokens=cached,
        output_tokens=num_output,
        reasoning_tokens=min(thinking, num_output),
        # What is not said to be for an hour is for minutes, the default.
        cache_write_tokens=written - hour,
        cache_write_1h_tokens=hour,
    )


def _count(counts: object, name: str) -> int:
    value = counts.get(name) if isinstance(counts, Mapping) else None
    return value if type(value) is int and value > 0 else 0
