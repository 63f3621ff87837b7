"""The breaker beside a model of it, under random requests, failures and time."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fakes.fake_clock import FakeClock
from headrace.client.circuit_breaker import CircuitBreaker, Permit


class BreakerMachine(RuleBasedStateMachine):
    """Requests in flight, each with its permit; answers that have begun."""

    @initialize(max_failures=st.integers(1, 4), cooldown_s=st.sampled_from([1.0, 5.0]))
    def start(self, max_failures: int, cooldown_s: float) -> None:
        self.clock = FakeClock()
        self.max_failures, self.cooldown_s = max_failures, cooldown_s
        self.breaker = CircuitBreaker(max_failures, cooldown_s, self.clock)
        self.waiting: list[Permit] = []
        self.answering = 0
        self.failures_in_a_row = 0
        self.opened_at_s: float | None = None

    @rule()
    def ask(self) -> None:
        state = self.breaker.state
        permit = self.breaker.admit()
        if state == "open":
            assert permit is None
        if state == "closed":
            assert permit == "usual"
        if permit is not None:
            self.waiting.append(permit)

    @precondition(lambda self: self.waiting)
    @rule()
    def begin(self) -> None:
        self.waiting.pop(0)
        self.breaker.begin_answer()
        self.answering += 1
        self.opened_at_s = None
        assert self.breaker.state == "closed"

    @precondition(lambda self: self.answering)
    @rule()
    def complete(self) -> None:
        self.answering -= 1
        self.breaker.succeed()
        self.failures_in_a_row, self.opened_at_s = 0, None
        assert self.breaker.state == "closed"

    @precondition(lambda self: self.answering)
    @rule()
    def cut(self) -> None:
        self.answering -= 1
        self._fail()

    @precondition(lambda self: self.waiting)
    @rule()
    def fail(self) -> None:
        self.waiting.pop(0)
        self._fail()

    @precondition(lambda self: self.waiting)
    @rule()
    def leave(self) -> None:
        permit = self.waiting.pop(0)
        before = self.breaker.state
        self.breaker.give_up(permit)
        assert self.breaker.state == before
        if permit == "probe" and before == "half-open":
            assert self.breaker.can_admit

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def _fail(self) -> None:
        was_open = self.breaker.state == "open"
        self.breaker.fail()
        self.failures_in_a_row += 1
        if self.failures_in_a_row >= self.max_failures and not was_open:
            self.opened_at_s = self.clock.now_s

    @invariant()
    def it_is_open_exactly_for_the_cooldown(self) -> None:
        if self.opened_at_s is None:
            assert self.breaker.state == "closed"
            assert self.breaker.open_for_s == 0
            return
        is_over = self.clock.now_s >= self.opened_at_s + self.cooldown_s
        assert self.breaker.state == ("half-open" if is_over else "open")
        assert self.breaker.can_admit <= is_over

    @invariant()
    def one_probe_at_a_time(self) -> None:
        if self.breaker.state == "half-open":
            is_probing = "probe" in self.waiting and not self.breaker.can_admit
            assert is_probing or self.breaker.can_admit


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_dead_server_is_asked_once_per_cooldown() -> None:
    clock = FakeClock()
    breaker = CircuitBreaker(3, 10.0, clock)
    num_asked = 0
    for _ in range(1000):
        if breaker.admit() is not None:
            num_asked += 1
            breaker.fail()
        clock.advance(0.1)
    # 100 s: three to open it, then one every ten seconds.
    assert num_asked == 3 + 9
