"""Room for a request, and the wait that the queue predicts."""

from __future__ import annotations

import pytest

from fakes.running_engine import Recorder
from headrace.core.errors import CapacityError
from headrace.core.step import RequestProgress, StepReport, StepStats
from headrace.engine.admission import MAX_RETRY_AFTER_S, Admission
from headrace.engine.stats import EngineStats

RUNNING = 4


def make(max_num_requests: int = 1000) -> tuple[Admission, Recorder]:
    metrics = Recorder()
    return Admission(max_num_requests, EngineStats(metrics, 10, 4)), metrics


def queue(admission: Admission, seconds: int, waiting: int, every_s: int = 1) -> None:
    """Steps of a second with a queue, from which a request is started every so often."""
    for at_s in range(seconds):
        started = (RequestProgress(f"r{at_s}", scheduled_at_s=at_s - 0.5),)
        progress = started if at_s % every_s == 0 else ()
        stats = StepStats(num_running=RUNNING, num_waiting=waiting)
        admission.observe(StepReport(at_s, progress, stats, ended_at_s=float(at_s)))


@pytest.mark.parametrize("every_s", [1, 5])
def test_the_wait_is_the_queue_at_its_pace(every_s: int) -> None:
    admission, _ = make()
    queue(admission, 200, waiting=20, every_s=every_s)
    assert admission.predict_wait_s(RUNNING + 20) == pytest.approx(21 * every_s, rel=0.1)
    # Thirty more came since the last step.
    assert admission.predict_wait_s(RUNNING + 50) == pytest.approx(51 * every_s, rel=0.1)


def test_batches_let_everybody_pass() -> None:
    admission, _ = make()
    for at_s in range(100):
        stats = StepStats(
            num_running=RUNNING, num_waiting=16, num_background_running=1, num_background_waiting=16
        )
        admission.observe(StepReport(at_s, (), stats, ended_at_s=float(at_s)))
    assert admission.predict_wait_s(RUNNING + 16) == 0
    admission.check(RUNNING + 16, 1, patience_s=0.001)


def test_nobody_waits_where_nothing_waited() -> None:
    admission, _ = make()
    assert admission.predict_wait_s(500) == 0
    queue(admission, 100, waiting=0)
    assert admission.predict_wait_s(500) == 0
    admission.check(500, 1, patience_s=0.001)


def test_the_pace_of_long_ago_is_forgotten() -> None:
    admission, _ = make()
    queue(admission, 100, waiting=20, every_s=10)
    slow_s = admission.predict_wait_s(RUNNING + 20)
    for at_s in range(100, 300):
        started = (RequestProgress(f"r{at_s}", scheduled_at_s=float(at_s)),)
        stats = StepStats(num_running=RUNNING, num_waiting=20)
        admission.observe(StepReport(at_s, started, stats, ended_at_s=at_s + 0.5))
    assert slow_s > 150
    assert admission.predict_wait_s(RUNNING + 20) == pytest.approx(21, rel=0.1)


def test_a_client_that_would_give_up_first_is_told_at_once() -> None:
    admission, metrics = make()
    queue(admission, 200, waiting=20)
    admission.check(RUNNING + 20, 1, patience_s=None)
    admission.check(RUNNING + 20, 1, patience_s=30)
    with pytest.raises(CapacityError, match=r"wait about 21 s .* gives up after 5 s") as refused:
        admission.check(RUNNING + 20, 1, patience_s=5)
    assert refused.value.is_full
    assert refused.value.retry_after_s == pytest.approx(16, rel=0.1)
    assert metrics.counters["vllm:admission_rejections_total"] == 1


def test_a_full_queue_says_when_there_is_room() -> None:
    admission, _ = make(max_num_requests=24)
    queue(admission, 200, waiting=20, every_s=3)
    with pytest.raises(
        CapacityError, match=r"24 answers are in progress .* limit is 24"
    ) as refused:
        admission.check(24, 1, patience_s=None)
    assert refused.value.retry_after_s == pytest.approx(3, rel=0.1)


def test_a_queue_that_stands_still_is_as_slow_as_it_has_been() -> None:
    admission, _ = make()
    stats = StepStats(num_running=RUNNING, num_waiting=20)
    for at_s in range(0, 600, 10):
        admission.observe(StepReport(at_s, (), stats, ended_at_s=float(at_s)))
    with pytest.raises(CapacityError) as refused:
        admission.check(RUNNING + 20, 1, patience_s=10)
    assert refused.value.retry_after_s == MAX_RETRY_AFTER_S
