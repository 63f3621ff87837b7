"""The price of a model on an own machine: cost per hour over what it was measured to compute.

In: dollars per hour, tokens per second of prompts and of answers at a load, the share of time in
which the machine works. Out: a Price: in full, with its share of idle time, and marginal, without.
Or the other way: what the usage ledger says that a machine did.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from typing import NamedTuple

from headrace.core.frozen import frozen
from headrace.economics.prices import LOCAL, Match, MeasuredMachine, Price, Rates, Schedule

_HOUR_S = 3600
_MTOK = 10**6


def price_machine(
    machine: MeasuredMachine,
    model: str,
    *,
    source: str,
    measured_on: date | None = None,
    effective_from: date | None = None,
    effective_until: date | None = None,
) -> Price:
    """A token costs the time that it takes; in full, also the idle time around it.

    Prompt tokens found in the prefix cache take none: they cost 0.
    """
    return Price(
        provider=LOCAL,
        model=model,
        match=Match("equals", model),
        standard=Schedule(_rates(machine, machine.utilization)),
        marginal=Schedule(_rates(machine, Decimal(1))),
        machine=machine,
        effective_from=effective_from,
        effective_until=effective_until,
        checked=measured_on,
        source=source,
    )


def _rates(machine: MeasuredMachine, utilization: Decimal) -> Rates:
    def rate(tokens_per_s: Decimal) -> int:
        per_mtok = machine.nano_usd_per_hour * _MTOK / (_HOUR_S * tokens_per_s * utilization)
        return int(per_mtok.quantize(Decimal(1), ROUND_HALF_UP))

    return Rates(
        input=rate(machine.input_tokens_per_s),
        cached_input=0,
        output=rate(machine.output_tokens_per_s),
    )


class ServedCall(NamedTuple):
    """A call that the engine finished. Units: seconds; tokens that were computed."""

    accepted_at_s: float
    queue_s: float
    prefill_s: float
    decode_s: float
    input_tokens: int
    output_tokens: int


@frozen
class MachineWork:
    """What a machine did over a time. Units: seconds, tokens per second of work of that kind.

    `concurrency` is the mean number of calls at once while there was any.
    """

    num_calls: int
    busy_s: float
    span_s: float
    input_tokens_per_s: float
    output_tokens_per_s: float
    concurrency: float

    @property
    def utilization(self) -> float:
        """The share of the time in which it worked."""
        return min(1.0, self.busy_s / self.span_s)


def measure_work(calls: Iterable[ServedCall], begin_s: float, end_s: float) -> MachineWork | None:
    """Add up calls; None when too little was computed to say anything.

    The busy time is when at least one call was computed. It is split between prompts and answers as
    the calls' own times are: a machine that serves many at once does both in each step.
    """
    spans, prefill_s, decode_s, num_input, num_output = [], 0.0, 0.0, 0, 0
    for call in calls:
        start_s = call.accepted_at_s + call.queue_s
        spans.append((start_s, start_s + call.prefill_s + call.decode_s))
        prefill_s, decode_s = prefill_s + call.prefill_s, decode_s + call.decode_s
        num_input, num_output = num_input + call.input_tokens, num_output + call.output_tokens
    busy_s = _covered_s(spans)
    if not num_input or not num_output or prefill_s <= 0 or decode_s <= 0 or end_s <= begin_s:
        return None
    work_s = prefill_s + decode_s
    return MachineWork(
        num_calls=len(spans),
        busy_s=busy_s,
        span_s=max(end_s - begin_s, busy_s),
        input_tokens_per_s=num_input / (busy_s * prefill_s / work_s),
        output_tokens_per_s=num_output / (busy_s * decode_s / work_s),
        concurrency=work_s / busy_s,
    )


def _covered_s(spans: list[tuple[float, float]]) -> float:
    """The time that at least one span covers."""
    covered_s, until_s = 0.0, float("-inf")
    for start_s, end_s in sorted(spans):
        covered_s += max(0.0, end_s - max(start_s, until_s))
        until_s = max(until_s, end_s)
    return covered_s
