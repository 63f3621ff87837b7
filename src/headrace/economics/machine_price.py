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
    """A call that the engine finished. Units: seconds; tokens that were computed.

    `prefill_s` and `decode_s` are time that passed, for other calls too. The call's own share of it
    is in `..._compute_s`; None: nobody told.
    """

    accepted_at_s: float
    queue_s: float
    prefill_s: float
    decode_s: float
    input_tokens: int
    output_tokens: int
    prefill_compute_s: float | None = None
    decode_compute_s: float | None = None


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

    The busy time is when at least one call was computed. It is split between prompts and answers by
    the time that the engine spent on each: where calls overlap, the times that passed for each of
    them say nothing of it, as an answer that takes ten seconds beside 31 others takes a third of
    one for itself.
    """
    spans, passed_s, prefill_s, decode_s, num_input, num_output = [], 0.0, 0.0, 0.0, 0, 0
    untold = []
    for call in calls:
        start_s, call_s = call.accepted_at_s + call.queue_s, call.prefill_s + call.decode_s
        spans.append((start_s, start_s + call_s))
        passed_s += call_s
        num_input, num_output = num_input + call.input_tokens, num_output + call.output_tokens
        if call.prefill_compute_s is None or call.decode_compute_s is None:
            untold.append(call)
        else:
            prefill_s += call.prefill_compute_s
            decode_s += call.decode_compute_s
    guessed_prefill_s, guessed_decode_s = _split(untold)
    prefill_s, decode_s = prefill_s + guessed_prefill_s, decode_s + guessed_decode_s
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
        concurrency=passed_s / busy_s,
    )


def _split(calls: Iterable[ServedCall]) -> tuple[float, float]:
    """Seconds of prompts and of answers, where nobody told what was computed when.

    A prompt and an answer are taken to be computed at an even pace from their beginning to their
    end; at each moment the machine's time is divided by the tokens of both.
    """
    changes: list[tuple[float, int, float, int]] = []
    for call in calls:
        begin_s = call.accepted_at_s + call.queue_s
        first_s = begin_s + call.prefill_s
        prompt = begin_s, first_s, call.input_tokens
        answer = first_s, first_s + call.decode_s, call.output_tokens
        for kind, (since_s, until_s, num_tokens) in enumerate((prompt, answer)):
            if num_tokens and until_s > since_s:
                pace = num_tokens / (until_s - since_s)
                changes += [(since_s, kind, pace, 1), (until_s, kind, -pace, -1)]
    spent_s, paces, counts, last_s = [0.0, 0.0], [0.0, 0.0], [0, 0], 0.0
    for at_s, kind, pace, count in sorted(changes):
        if any(counts):
            # What is left of a sum of paces when nobody is there is rounding.
            now = [each if there else 0.0 for each, there in zip(paces, counts, strict=True)]
            for place in (0, 1):
                spent_s[place] += (at_s - last_s) * now[place] / sum(now)
        paces[kind] += pace
        counts[kind] += count
        last_s = at_s
    return spent_s[0], spent_s[1]


def _covered_s(spans: list[tuple[float, float]]) -> float:
    """The time that at least one span covers."""
    covered_s, until_s = 0.0, float("-inf")
    for start_s, end_s in sorted(spans):
        covered_s += max(0.0, end_s - max(start_s, until_s))
        until_s = max(until_s, end_s)
    return covered_s
