"""The simulation beside what queueing theory says, and beside counts made by hand."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.workload_files import answer_to, write_workload
from headrace.core.config import EngineConfig
from headrace.core.errors import ConfigError
from headrace.planner.arrivals import draw_arrivals
from headrace.planner.autoscale import ScalingRule, next_replicas, wanted_replicas
from headrace.planner.capacity import SimulatedCall, simulate
from headrace.planner.journal import Journal
from headrace.planner.profile import Profile
from headrace.planner.sizing import Demand, sizes
from headrace.planner.step_times import StepTimes
from headrace.planner.workload import Arrivals
from headrace.planner.workload_file import read_workload

# Steps of a millisecond, whatever is in them.
FLAT = StepTimes((1,), (0.001,), 0.0, 0.001)
ONE_AT_A_TIME = EngineConfig(max_num_seqs=1)
NUM_CALLS = 40_000
MEAN_TOKENS = 200


def mean_wait_s(load: float, output_tokens: np.ndarray) -> float:
    """Mean time in the queue, in service times, of Poisson arrivals at one server."""
    service_s = 0.001 * MEAN_TOKENS
    span_s = NUM_CALLS * service_s / load
    arrivals = draw_arrivals(Arrivals(), load / service_s, span_s, seed=3)
    calls = [
        SimulatedCall(float(at), 1, int(tokens))
        for at, tokens in zip(arrivals, output_tokens, strict=False)
    ]
    found = simulate(calls, FLAT, ONE_AT_A_TIME)
    assert found.utilization == pytest.approx(load, rel=0.03)
    return float(np.mean([call.queue_s for call in found.calls])) / service_s


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_constant_work_waits_as_in_m_d_1(load: float) -> None:
    """Pollaczek and Khinchine: W = load / (2 (1 - load)) service times."""
    constant = np.full(2 * NUM_CALLS, MEAN_TOKENS)
    assert mean_wait_s(load, constant) == pytest.approx(load / (2 * (1 - load)), rel=0.08)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_exponential_work_waits_as_in_m_m_1(load: float) -> None:
    """W = load / (1 - load) service times."""
    drawn = np.random.default_rng(4).exponential(MEAN_TOKENS, 2 * NUM_CALLS)
    lengths = np.maximum(1, np.rint(drawn))
    assert mean_wait_s(load, lengths) == pytest.approx(load / (1 - load), rel=0.12)


def test_a_call_alone_takes_what_its_steps_take() -> None:
    times = StepTimes((1, 2), (0.010, 0.012), 0.001, 0.005)
    (call,) = simulate([SimulatedCall(7.0, 100, 11)], times).calls
    assert call.ttft_s == pytest.approx(0.005 + 100 * 0.001)
    assert call.tpot_s == pytest.approx(0.010)
    assert call.queue_s == 0


def test_prompts_are_computed_in_chunks_beside_answers() -> None:
    """Of a second prompt 128 tokens go with each step of the first answer."""
    times = StepTimes((1, 2), (0.010, 0.012), 0.001, 0.005)
    calls = [SimulatedCall(0.0, 10, 101), SimulatedCall(0.5, 256, 2)]
    first, second = simulate(calls, times).calls
    # It came within a step of 10 ms; two steps of 5 ms and 129 rows follow.
    assert second.ttft_s == pytest.approx(0.005 + 2 * 0.134, abs=0.0051)
    assert second.tpot_s == pytest.approx(0.012)
    alone_s = 0.015 + 100 * 0.010
    assert first.e2e_s == pytest.approx(alone_s + 2 * 0.124 + 0.002)


def test_a_step_reads_its_weights_once_for_prompts_and_answers() -> None:
    times = StepTimes((1, 4, 16), (0.010, 0.013, 0.031), 0.002, 0.005, mixed_token_s=0.001)
    assert times.step_s(0, 100) == pytest.approx(0.205)
    assert times.step_s(1, 100) == pytest.approx(0.005 + 0.101)
    # A few rows take what as many answers take, and never less than the answers among them.
    assert times.step_s(0, 2) == pytest.approx(0.011)
    assert times.step_s(2, 2) == pytest.approx(0.013)
    assert times.step_s(28, 2) == times.step_s(28, 0) == pytest.approx(0.049)


def test_what_is_cached_of_a_prompt_is_looked_back_on_only() -> None:
    times = StepTimes((1,), (0.010,), 0.001, 0.005, context_token_s=1e-5)
    whole, part = simulate(
        [SimulatedCall(0.0, 300, 2), SimulatedCall(9.0, 300, 2, cached_input_tokens=256)], times
    ).calls
    assert whole.ttft_s == pytest.approx(0.305) and part.ttft_s == pytest.approx(0.049)
    assert [part.tpot_s, whole.tpot_s] == pytest.approx(2 * [0.010 + 301e-5])
    (all_cached,) = simulate([SimulatedCall(0.0, 300, 1, cached_input_tokens=300)], times).calls
    assert all_cached.ttft_s == pytest.approx(0.010)


def test_a_batch_is_shared_and_grows_along_the_line() -> None:
    times = StepTimes((1, 2, 4), (0.010, 0.012, 0.020), 0.0, 0.010)
    assert times.step_s(3, 0) == pytest.approx(0.016)
    assert times.step_s(8, 0) == pytest.approx(0.036)
    calls = [SimulatedCall(0.0, 1, 11)] * 4
    found = simulate(calls, times)
    # The first begins alone; the others join its second step and have the last to themselves.
    first_s, other_s = 0.020, (9 * 0.020 + 0.016) / 10
    assert [call.tpot_s for call in found.calls] == pytest.approx([first_s] + [other_s] * 3)
    assert found.utilization == pytest.approx(1.0)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.integers(1, 600), st.integers(1, 50)),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 4),
    st.integers(0, 2),
)
def test_every_call_ends_and_none_before_it_can(
    drawn: list[tuple[float, int, int]], most: int, least: int
) -> None:
    times = StepTimes((1, 8), (0.02, 0.03), 0.0005, 0.01)
    calls = [SimulatedCall(*call) for call in sorted(drawn)]
    rule = ScalingRule(min(least, most), most, target_in_flight=2, start_s=3, down_after_s=4)
    found = simulate(calls, times, EngineConfig(max_num_seqs=3), rule)
    assert len(found.calls) == len(calls)
    for call, seen in zip(calls, found.calls, strict=True):
        assert 0 <= seen.queue_s <= seen.ttft_s <= seen.e2e_s
        assert seen.ttft_s >= call.input_tokens * 0.0005
        assert seen.e2e_s - seen.ttft_s >= (call.output_tokens - 1) * 0.02 - 1e-9
    assert 0 < found.busy_s <= found.paid_s + 1e-6
    assert found.most_replicas <= most


def test_replicas_come_when_they_are_wanted_and_go_later() -> None:
    times = StepTimes((1,), (0.05,), 0.0, 0.05)
    burst = [SimulatedCall(10.0 + 0.8 * i, 1, 100) for i in range(40)]
    calls = [*burst, SimulatedCall(400.0, 1, 10)]
    limits = EngineConfig(max_num_seqs=2)
    one = simulate(calls, times, limits, ScalingRule(1, 1))
    scaled = ScalingRule(1, 4, target_in_flight=4, start_s=5, down_after_s=30)
    four = simulate(calls, times, limits, scaled)
    assert four.most_replicas == 4
    assert max(c.e2e_s for c in four.calls) < 0.5 * max(c.e2e_s for c in one.calls)
    assert one.paid_s < four.paid_s < 2 * one.paid_s
    nothing = simulate(calls, times, limits, ScalingRule(0, 1, start_s=5, down_after_s=30))
    assert nothing.calls[0].ttft_s == pytest.approx(5.05)
    assert nothing.paid_s < 0.6 * one.paid_s


def test_the_rule_is_pure() -> None:
    rule = ScalingRule(1, 5, target_in_flight=4, down_after_s=60)
    assert [wanted_replicas(rule, n) for n in (0, 4, 5, 100)] == [1, 1, 2, 5]
    assert next_replicas(rule, 1, 17, 0) == 5
    assert next_replicas(rule, 3, 1, 59) == 3
    assert next_replicas(rule, 3, 1, 60) == 2


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_gaps_have_the_spread_that_was_asked_for(cv: float) -> None:
    moments = draw_arrivals(Arrivals("gamma", cv), 2.0, 20_000, seed=1)
    gaps = np.diff(moments)
    assert gaps.mean() == pytest.approx(0.5, rel=0.06)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)
    assert (moments == draw_arrivals(Arrivals("gamma", cv), 2.0, 20_000, seed=1)).all()


def test_recorded_moments_keep_their_shape_at_another_rate() -> None:
    record = (0.0, 1.0, 1.5, 6.0)
    moments = draw_arrivals(Arrivals("recorded", recorded_s=record), 4.0, 10.0, seed=0)
    assert len(moments) == 40
    gaps = np.diff(moments)
    assert gaps[:3] / gaps[0] == pytest.approx([1, 0.5, 4.5])
    assert gaps[4:7] == pytest.approx(gaps[:3])


def test_a_workload_is_sized_from_what_was_measured(tmp_path: Path) -> None:
    workload = read_workload(write_workload(tmp_path))
    journal = Journal(tmp_path / "p.jsonl")
    tier = workload.tiers["large"]
    for call in workload.calls:
        for sample in call.samples:
            journal.add(answer_to(call, tier, sample, "sport"))
    profile = Profile(workload, journal)
    rules = [ScalingRule(1, 1), ScalingRule(2, 2)]
    with pytest.raises(ConfigError, match="profile WORKLOAD --steps"):
        list(sizes(profile, tier, Demand(), rules, None))
    journal.add_step_times(tier, StepTimes((1, 2), (0.5, 0.6), 0.01, 0.4))
    profile = Profile(workload, Journal(tmp_path / "p.jsonl"))
    one, two = sizes(profile, tier, Demand(4.0, 1800.0), rules, Decimal("0.5"))
    assert {task.task for task in one.tasks} == {"label", "summarize"}
    # 2,000 calls a day, four times as dense, for half an hour.
    assert sum(task.count for task in one.tasks) == pytest.approx(167, rel=0.25)
    assert two.utilization < one.utilization <= 1
    assert two.nano_usd == 2 * 24 * 500_000_000
    assert two.tasks[0].e2e_s[2] < one.tasks[0].e2e_s[2]
    assert [task.holds for task in two.tasks] == [None, True]
