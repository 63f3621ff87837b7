"""Capacity: what callers would wait for, and what it would cost, before anything is bought.

A discrete-event simulation of replicas that batch as the engine does: running answers gain a token
a step, prompts are computed in chunks beside them, a step takes as long as was measured for what is
in it. In: calls with their moments, StepTimes, limits, a scaling rule. Out: latencies of every
call, busy and paid time. Units: seconds, tokens.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.core.config import EngineConfig
from headrace.core.frozen import frozen
from headrace.planner.autoscale import ScalingRule, next_replicas, wanted_replicas
from headrace.planner.step_times import StepTimes

SCALE_EVERY_S = 5.0


@frozen
class SimulatedCall:
    """A call to come. What is cached of its prompt is looked back on and not computed."""

    arrival_s: float
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0


@frozen
class CallTimes:
    """What a caller saw. `queue_s` is until its first step."""

    queue_s: float
    ttft_s: float
    e2e_s: float
    output_tokens: int

    @property
    def tpot_s(self) -> float | None:
        """None of an answer of one token."""
        if self.output_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1)


@frozen
class Simulation:
    """All calls in their order; replicas' time that worked and that was paid for."""

    calls: tuple[CallTimes, ...]
    busy_s: float
    paid_s: float
    most_replicas: int

    @property
    def utilization(self) -> float:
        return self.busy_s / self.paid_s if self.paid_s else 0.0


def simulate(
    calls: Sequence[SimulatedCall],
    times: StepTimes,
    engine: EngineConfig | None = None,
    rule: ScalingRule | None = None,
) -> Simulation:
    """Run all calls to their end. `engine`: what a step may hold, as its settings say."""
    return _Cluster(calls, times, engine or EngineConfig(), rule or ScalingRule()).run()


@dataclass(slots=True, eq=False)
class _Running:
    """A call on a replica."""

    index: int
    prompt_left: int
    output_left: int
    chunk: int = 0


@dataclass(slots=True, eq=False)
class _Replica:
    """One engine. A span is some equal steps in a row; `version` outdates events of older spans."""

    ready_s: float
    waiting: deque[int] = field(default_factory=deque)
    running: list[_Running] = field(default_factory=list)
    begin_s: float = 0.0
    step_s: float = 0.0
    num_steps: int = 0
    version: int = 0
    is_leaving: bool = False

    @property
    def num_calls(self) -> int:
        return len(self.waiting) + len(self.running)


class _Cluster:
    """Replicas, the calls still to come, and the events between them."""

    def __init__(
        self,
        calls: Sequence[SimulatedCall],
        times: StepTimes,
        engine: EngineConfig,
        rule: ScalingRule,
    ) -> None:
        self._calls, self._times, self._engine, self._rule = calls, times, engine, rule
        first_s = calls[0].arrival_s if calls else 0.0
        self._replicas = [_Replica(first_s) for _ in range(max(1, rule.least) if rule.least else 0)]
        self._started_s = first_s
        self._events: list[tuple[float, int, int, _Replica | None]] = []
        self._order = 0
        self._held: deque[int] = deque()
        self._first_step_s = [math.nan] * len(calls)
        self._first_token_s = [math.nan] * len(calls)
        self._end_s = [math.nan] * len(calls)
        self._busy_s = self._paid_s = 0.0
        self._num_left = len(calls)
        self._fewer_since_s = first_s
        self._most = len(self._replicas)

    def run(self) -> Simulation:
        """Until the last answer has ended."""
        upcoming = 0
        if self._rule.most > self._rule.least:
            self._push(self._started_s, None, 0)
        now_s = self._started_s
        while self._num_left:
            arrival_s = self._calls[upcoming].arrival_s if upcoming < len(self._calls) else math.inf
            if self._events and self._events[0][0] <= arrival_s:
                now_s, _, version, replica = heapq.heappop(self._events)
                if replica is None:
                    self._scale(now_s)
                elif version == replica.version:
                    self._end_span(replica, now_s)
            else:
                now_s = arrival_s
                self._arrive(upcoming, now_s)
                upcoming += 1
        for replica in tuple(self._replicas):
            self._remove(replica, now_s)
        return Simulation(self._results(), self._busy_s, self._paid_s, self._most)

    def _results(self) -> tuple[CallTimes, ...]:
        return tuple(
            CallTimes(
                self._first_step_s[index] - call.arrival_s,
                self._first_token_s[index] - call.arrival_s,
                self._end_s[index] - call.arrival_s,
                call.output_tokens,
            )
            for index, call in enumerate(self._calls)
        )

    def _push(self, when_s: float, replica: _Replica | None, version: int) -> None:
        self._order += 1
        heapq.heappush(self._events, (when_s, self._order, version, replica))

    def _arrive(self, index: int, now_s: float) -> None:
        serving = [r for r in self._replicas if not r.is_leaving]
        if not serving:
            self._held.append(index)
            if self._rule.most > 0 and not self._replicas:
                self._add(now_s)
            return
        replica = min(serving, key=lambda r: (r.num_calls, r.ready_s))
        replica.waiting.append(index)
        self._wake(replica, now_s)

    def _wake(self, replica: _Replica, now_s: float) -> None:
        """Begin, or end the span at the next step, so that the call can join."""
        if not replica.running:
            if replica.num_steps == 0:
                self._begin_span(replica, max(now_s, replica.ready_s))
        elif len(replica.running) < self._engine.max_num_seqs:
            done = math.ceil((now_s - replica.begin_s) / replica.step_s - 1e-9)
            if max(1, done) < replica.num_steps:
                replica.num_steps = max(1, done)
                replica.version += 1
                end_s = replica.begin_s + replica.num_steps * replica.step_s
                self._push(end_s, replica, replica.version)

    def _begin_span(self, replica: _Replica, now_s: float) -> None:
        """Admit, decide what is in the step, and how many equal ones follow."""
        engine, running = self._engine, replica.running
        if now_s >= replica.ready_s:
            while replica.waiting and len(running) < engine.max_num_seqs:
                call = self._calls[replica.waiting[0]]
                prompt_left = max(1, call.input_tokens - call.cached_input_tokens)
                entry = _Running(replica.waiting.popleft(), prompt_left, call.output_tokens)
                running.append(entry)
        decoding = [entry for entry in running if not entry.prompt_left]
        room = engine.max_num_batched_tokens - len(decoding)
        if decoding and engine.max_mixed_prompt_tokens is not None:
            room = min(room, engine.max_mixed_prompt_tokens)
        num_prompt = 0
        for entry in running:
            entry.chunk = min(entry.prompt_left, room - num_prompt)
            num_prompt += entry.chunk
            if entry.chunk and math.isnan(self._first_step_s[entry.index]):
                self._first_step_s[entry.index] = now_s
        replica.begin_s = now_s
        replica.num_steps = 1
        if not num_prompt and decoding:
            replica.num_steps = min(entry.output_left for entry in decoding)
        # Of equal steps in a row the middle one stands for all.
        middle = (replica.num_steps - 1) / 2
        context = sum(self._context(entry) + middle for entry in decoding)
        replica.step_s = self._times.step_s(len(decoding), num_prompt, context)
        replica.version += 1
        self._push(now_s + replica.num_steps * replica.step_s, replica, replica.version)

    def _context(self, entry: _Running) -> int:
        """Tokens that the next one of an answer looks back on."""
        call = self._calls[entry.index]
        return call.input_tokens + call.output_tokens - entry.output_left

    def _end_span(self, replica: _Replica, now_s: float) -> None:
        count = replica.num_steps
        if replica.running:
            self._busy_s += count * replica.step_s
        for entry in replica.running:
            if entry.prompt_left:
                entry.prompt_left -= entry.chunk
                if entry.prompt_left or not entry.chunk:
                    continue
                self._first_token_s[entry.index] = now_s
                entry.output_left -= 1
            else:
                entry.output_left -= count
            if entry.output_left <= 0:
                self._end_s[entry.index] = now_s
                self._num_left -= 1
        replica.running = [entry for entry in replica.running if entry.output_left > 0]
        replica.num_steps = 0
        if replica.num_calls:
            self._begin_span(replica, now_s)
        elif replica.is_leaving:
            self._remove(replica, now_s)

    def _scale(self, now_s: float) -> None:
        """Ask the rule, as a cluster does every few seconds."""
        here = [replica for replica in self._replicas if not replica.is_leaving]
        in_flight = len(self._held) + sum(replica.num_calls for replica in self._replicas)
        if wanted_replicas(self._rule, in_flight) >= len(here):
            self._fewer_since_s = now_s
        fewer_s = now_s - self._fewer_since_s
        wanted = next_replicas(self._rule, len(here), in_flight, fewer_s)
        for _ in range(wanted - len(here)):
            self._add(now_s)
        if wanted < len(here):
            leaving = min(here, key=lambda replica: replica.num_calls)
            leaving.is_leaving = True
            self._fewer_since_s = now_s
            if not leaving.num_calls:
                self._remove(leaving, now_s)
        self._push(now_s + SCALE_EVERY_S, None, 0)

    def _add(self, now_s: float) -> None:
        replica = _Replica(now_s + self._rule.start_s)
        self._replicas.append(replica)
        self._most = max(self._most, len(self._replicas))
        replica.waiting.extend(self._held)
        self._held.clear()
        if replica.waiting:
            self._begin_span(replica, replica.ready_s)

    def _remove(self, replica: _Replica, now_s: float) -> None:
        """Starting is paid for too; those of the beginning were there."""
        start_s = 0.0 if replica.ready_s <= self._started_s else self._rule.start_s
        self._paid_s += max(0.0, now_s - replica.ready_s) + start_s
        self._replicas.remove(replica)
