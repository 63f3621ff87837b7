"""When silence is a stall: by the processor's time where that stands still, else by the steps."""

from __future__ import annotations

from fakes.fake_clock import FakeClock
from headrace.core.step import StepStats
from headrace.engine.stall_watch import FIRST_STEP_S, LOAD_S, SLACK, Silence, StallWatch


def silence_s(watch: StallWatch, processor_share: float | None, limit_s: float = 2000.0) -> float:
    """How long it takes until silence is a stall, in ticks of half a second."""
    waited_s = 0.0
    while waited_s < limit_s:
        waited_s += 0.5
        processor_s = None if processor_share is None else 7.0 + processor_share * waited_s
        if watch.is_stalled(0.5, processor_s):
            return waited_s
    return limit_s


def step(watch: StallWatch, num_tokens: int, seconds: float) -> None:
    watch.observe(StepStats(num_scheduled_tokens=num_tokens, step_s=seconds))
    watch.moved()


def test_a_process_that_computes_nothing_has_the_timeout() -> None:
    watch = StallWatch(5.0, 512)
    step(watch, 512, 30.0)
    assert 5.0 <= silence_s(watch, 0.0) <= 6.0
    watch.moved()
    assert 5.0 <= silence_s(watch, 0.0) <= 6.0


def test_a_step_that_computes_has_several_times_what_steps_take() -> None:
    watch = StallWatch(5.0, 512)
    assert silence_s(watch, 1.0) == FIRST_STEP_S
    watch = StallWatch(5.0, 512)
    step(watch, 1, 0.03)  # says little of large steps: 512 of these
    assert silence_s(watch, 1.0) >= SLACK * 0.03 * 512
    watch = StallWatch(5.0, 512)
    for num_tokens, seconds in ((1, 0.03), (256, 1.0), (4, 0.05)):
        step(watch, num_tokens, seconds)
    assert silence_s(watch, 1.0) == SLACK * 2.0
    watch.moved()
    assert silence_s(watch, 1.0) == 2 * SLACK * 2.0  # it was too little, so there is more


def test_without_a_clock_of_the_process_steps_decide() -> None:
    watch = StallWatch(5.0, 512)
    step(watch, 512, 1.0)
    assert silence_s(watch, None) == SLACK * 1.0


def test_a_timeout_is_never_undercut() -> None:
    watch = StallWatch(5.0, 512)
    step(watch, 512, 0.001)
    assert silence_s(watch, 1.0) >= 5.0


def test_a_starved_process_still_moves() -> None:
    watch = StallWatch(5.0, 512)
    step(watch, 512, 10.0)
    assert silence_s(watch, 0.02) == SLACK * 10.0


def test_a_step_waits_for_an_adapter_that_is_read_for_as_long_as_that_computes() -> None:
    watch = StallWatch(5.0, 512)
    step(watch, 512, 0.01)
    waited_s = 0.0
    while not watch.is_stalled(0.5, waited_s, is_loading=True):
        waited_s += 0.5
    assert waited_s + 0.5 == LOAD_S
    watch.moved()
    waited_s = 0.0
    while not watch.is_stalled(0.5, 7.0, is_loading=True):
        waited_s += 0.5
    assert waited_s <= 6.0


def test_a_silence_that_nobody_watched_is_told_at_the_third_look() -> None:
    clock = FakeClock()
    silence = Silence(clock, 30.0)
    seen = []
    for passed_s in (500.0, 500.0, 0.5):
        clock.advance(passed_s)
        seen.append(silence.seen_s())
    assert seen == [30.0, 60.0, 60.5]
    silence.end()
    assert silence.seen_s() == 0.0


def test_a_silence_that_is_watched_is_as_long_as_it_is() -> None:
    clock = FakeClock()
    silence = Silence(clock, 30.0)
    for _ in range(6):
        clock.advance(10.0)
        shown_s = silence.seen_s()
    assert shown_s == 60.0
