"""Steps planned by the scheduler: order, chunks, stops, preemption, aborts, and equal answers."""

from __future__ import annotations

import random
from itertools import product

import pytest

from fakes.fake_runner import expected_output
from fakes.scheduling import Answer, Bench, make_spec
from headrace.core.errors import CapacityError, ContextTooLong, InvalidParameter
from headrace.core.step import RowOutput, SchedulerOutput, StepReport
from headrace.sched.request_state import RequestSpec


def sizes(bench: Bench) -> list[dict[str, int]]:
    """Tokens per request, step by step."""
    return [
        {row.request_id: len(row.token_ids) for row in step.scheduled}
        for step in bench.runner.steps
        if step.scheduled
    ]


def mixed_specs(count: int, shared: int = 20, seed: int = 3) -> list[RequestSpec]:
    """Prompts of many lengths, some with a common beginning."""
    rng = random.Random(seed)
    common = tuple(rng.randrange(1000) for _ in range(shared))
    specs = []
    for index in range(count):
        own = tuple(rng.randrange(1000) for _ in range(rng.randrange(1, 40)))
        prompt = common + own if index % 2 else own
        max_tokens = rng.randrange(1, 25)
        wants = 2 if index % 5 == 0 else None
        specs.append(
            make_spec(
                f"r{index}", prompt, max_tokens, seed=index, prompt_logprobs=wants, logprobs=1
            )
        )
    return specs


def check_answers(specs: list[RequestSpec], answers: dict[str, Answer]) -> None:
    for spec in specs:
        answer = answers[spec.request_id]
        wanted = expected_output(spec.prompt_token_ids, spec.seed, spec.max_tokens, 1000)
        assert answer.token_ids == wanted
        assert answer.finish_reason == "length"
        assert [entry.token_id for entry in answer.logprobs] == list(wanted)
        scored = [entry.token_id for entry in answer.prompt_logprobs]
        asked = spec.sampling.prompt_logprobs is not None
        assert scored == (list(spec.prompt_token_ids[1:]) if asked else [])


def test_decodes_come_first_and_a_long_prompt_is_cut_in_chunks() -> None:
    bench = Bench(max_num_batched_tokens=8)
    bench.add(make_spec("a", (1, 2, 3), 6))
    bench.step()
    bench.add(make_spec("long", tuple(range(20)), 2))
    bench.run()
    assert sizes(bench) == [
        {"a": 3},
        {"a": 1, "long": 7},
        {"a": 1, "long": 7},
        {"a": 1, "long": 6},
        {"a": 1, "long": 1},
        {"a": 1},
    ]
    rows = [step.scheduled[1] for step in bench.runner.steps[1:4]]
    assert [(row.num_logit_rows, row.is_sampled) for row in rows] == [
        (0, False),
        (0, False),
        (1, True),
    ]
    assert [row.num_computed_tokens for row in rows] == [0, 7, 14]


def test_prompts_are_held_back_only_while_answers_go_on() -> None:
    bench = Bench(max_num_batched_tokens=16, max_mixed_prompt_tokens=5)
    bench.add(make_spec("a", (1, 2, 3), 3))
    bench.step()
    bench.add(make_spec("long", tuple(range(30)), 2), make_spec("b", (7, 8, 9, 10), 1))
    bench.run()
    assert sizes(bench) == [
        {"a": 3},
        {"a": 1, "long": 5},
        {"a": 1, "long": 5},
        {"long": 16},
        {"long": 4, "b": 4},
        {"long": 1},
    ]


def test_a_resuming_old_request_does_not_stop_the_decodes() -> None:
    """A chunk of an older request takes what decodes leave, not their tokens."""
    bench = Bench(num_blocks=8, block_size=4, max_num_batched_tokens=4, max_num_seqs=4)
    specs = [make_spec(f"r{i}", tuple(range(10 * i, 10 * i + 9)), 12) for i in range(3)]
    bench.add(*specs)
    bench.run()
    for step in bench.runner.steps:
        lengths = [len(row.token_ids) for row in step.scheduled]
        first_chunk = next((i for i, n in enumerate(lengths) if n > 1), len(lengths))
        assert all(n == 1 for n in lengths[:first_chunk])


@pytest.mark.parametrize(
    ("num_blocks", "budget", "max_num_seqs", "has_prefix_cache"),
    list(product((24, 40, 400), (8, 33, 512), (1, 3, 8), (True, False))),
)
def test_answers_do_not_depend_on_limits(
    num_blocks: int, budget: int, max_num_seqs: int, has_prefix_cache: bool
) -> None:
    bench = Bench(
        num_blocks=num_blocks,
        max_num_batched_tokens=budget,
        max_num_seqs=max_num_seqs,
        has_prefix_cache=has_prefix_cache,
    )
    specs = mixed_specs(12)
    bench.add(*specs)
    check_answers(specs, bench.run())


def test_answers_do_not_depend_on_arrival() -> None:
    specs = mixed_specs(16)
    for seed in range(6):
        rng = random.Random(seed)
        shuffled = rng.sample(specs, len(specs))
        bench = Bench(num_blocks=26, max_num_batched_tokens=16, policy="priority")
        for spec in shuffled:
            bench.add(spec)
            for _ in range(rng.randrange(4)):
                bench.step()
        check_answers(specs, bench.run())


def test_preemption_happens_and_spares_the_oldest() -> None:
    bench = Bench(num_blocks=12, block_size=4, max_num_batched_tokens=64, has_prefix_cache=False)
    specs = [make_spec(f"r{i}", tuple(range(i, i + 9)), 30) for i in range(4)]
    bench.add(*specs)
    answers = bench.run()
    check = {name: answer.num_preemptions for name, answer in answers.items()}
    assert check["r0"] == 0
    assert sum(check.values()) > 0
    for spec in specs:
        wanted = expected_output(spec.prompt_token_ids, spec.seed, 30, 1000)
        assert answers[spec.request_id].token_ids == wanted
    finished = list(answers)
    assert finished[0] == "r0"


def test_a_step_that_preempts_admits_nobody() -> None:
    """Else the freed blocks go to the victim or to somebody behind it, at once."""
    bench = Bench(num_blocks=12, block_size=4, max_num_batched_tokens=64, has_prefix_cache=False)
    bench.add(*(make_spec(f"r{i}", tuple(range(i, i + 9)), 30) for i in range(6)))
    num_preempting_steps = 0
    while bench.scheduler.has_work:
        running_before = {request.request_id for request in bench.scheduler._places.running}
        if bench.step().stats.num_new_preemptions:
            num_preempting_steps += 1
            scheduled = {row.request_id for row in bench.runner.steps[-1].scheduled}
            assert scheduled < running_before
    assert num_preempting_steps > 0


def test_preempted_requests_do_not_sample_what_they_know() -> None:
    bench = Bench(
        num_blocks=6,
        block_size=4,
        max_num_batched_tokens=4,
        max_num_seqs=2,
        has_prefix_cache=False,
    )
    bench.add(make_spec("old", (1, 2, 3, 4, 5), 16), make_spec("new", (6, 7, 8, 9, 10), 14))
    answers = bench.run()
    assert answers["new"].num_preemptions > 0
    computed = [row for step in bench.runner.steps for row in step.scheduled]
    sampled = [row for row in computed if row.request_id == "new" and row.is_sampled]
    assert len(sampled) == 14
    repeated = [row for row in computed if row.request_id == "new" and not row.is_sampled]
    assert any(row.num_computed_tokens > 0 and row.num_logit_rows == 0 for row in repeated)


def test_a_request_that_fills_the_pool_alone_is_never_failed() -> None:
    bench = Bench(num_blocks=5, block_size=4, max_num_seqs=4)
    specs = [make_spec(f"r{i}", (i,) * 12, 8, seed=i, logprobs=0) for i in range(5)]
    bench.add(*specs)
    check_answers(specs, bench.run())


def test_the_pool_limits_the_length_when_the_context_does_not() -> None:
    bench = Bench(num_blocks=5, block_size=4)
    bench.add(make_spec("a", tuple(range(15)), 100))
    answer = bench.run()["a"]
    assert (len(answer.token_ids), answer.finish_reason) == (5, "length")


def test_too_long_is_refused_with_the_number_that_fits() -> None:
    bench = Bench(num_blocks=5, block_size=4)
    bench.add(make_spec("fits", tuple(range(19))))
    with pytest.raises(ContextTooLong, match="20 tokens") as caught:
        bench.add(make_spec("a", tuple(range(20))))
    assert (caught.value.num_tokens, caught.value.max_model_len) == (20, 20)
    assert bench.run()["fits"].token_ids


def test_the_queue_is_bounded_and_refusal_leaves_nothing() -> None:
    bench = Bench(max_num_seqs=2, max_waiting_requests=3)
    for index in range(5):
        bench.add(make_spec(f"r{index}", (index,)))
    with pytest.raises(CapacityError, match="5 requests wait"):
        bench.add(make_spec("r5", (5,)))
    assert set(bench.run()) == {f"r{index}" for index in range(5)}


def test_an_id_in_use_is_refused() -> None:
    bench = Bench()
    bench.add(make_spec("a", (1,)))
    with pytest.raises(InvalidParameter, match="request_id"):
        bench.add(make_spec("a", (1,)))


def test_max_model_len_ends_with_length() -> None:
    bench = Bench(max_model_len=10)
    bench.add(make_spec("a", (1, 2, 3, 4), 100))
    answer = bench.run()["a"]
    assert (len(answer.token_ids), answer.finish_reason) == (6, "length")


def stop_bench(**changes: object) -> tuple[Answer, tuple[int, ...]]:
    wanted = expected_output((1, 2), 7, 12, 1000)
    bench = Bench()
    bench.add(make_spec("a", (1, 2), 12, **changes))
    return bench.run()["a"], wanted


def test_eos_ends_a_request() -> None:
    _, wanted = stop_bench()
    answer, _ = stop_bench(eos_token_ids=(wanted[4],))
    assert answer.token_ids == wanted[:5]
    assert (answer.finish_reason, answer.stop_token_id) == ("stop", None)


def test_a_stop_token_ends_a_request_and_is_named() -> None:
    _, wanted = stop_bench()
    answer, _ = stop_bench(stop_token_ids=[wanted[2]])
    assert answer.token_ids == wanted[:3]
    assert (answer.finish_reason, answer.stop_token_id) == ("stop", wanted[2])


def test_min_tokens_holds_stops_back_but_not_lengths() -> None:
    _, wanted = stop_bench()
    stops = {"eos_token_ids": (wanted[4],), "stop_token_ids": [wanted[8]]}
    answer, _ = stop_bench(min_tokens=6, **stops)
    assert answer.token_ids == wanted[:9]
    assert answer.stop_token_id == wanted[8]
    answer, _ = stop_bench(min_tokens=12, **stops)
    assert (answer.token_ids, answer.finish_reason) == (wanted, "length")


def test_a_stop_on_the_last_allowed_token_is_a_stop() -> None:
    _, wanted = stop_bench()
    answer, _ = stop_bench(eos_token_ids=(wanted[11],))
    assert (len(answer.token_ids), answer.finish_reason) == (12, "stop")


@pytest.mark.parametrize(
    ("complete_at", "min_tokens", "num_tokens"), [(5, 0, 5), (5, 9, 5), (12, 0, 12), (13, 0, 12)]
)
def test_a_complete_form_ends_a_request(complete_at: int, min_tokens: int, num_tokens: int) -> None:
    """Also before `min_tokens`, since nothing may follow, and on the last allowed token."""
    bench = Bench()
    bench.runner.complete_at = complete_at
    bench.add(make_spec("a", (1, 2, 3), 12, min_tokens=min_tokens))
    answer = bench.run()["a"]
    reason = "stop" if complete_at <= 12 else "length"
    assert (len(answer.token_ids), answer.finish_reason) == (num_tokens, reason)
    assert answer.stop_token_id is None


def test_a_stop_token_that_completes_a_form_is_a_stop_token() -> None:
    bench = Bench()
    bench.runner.complete_at = 5
    wanted = expected_output((1, 2, 3), 7, 5, 1000)
    bench.add(make_spec("a", (1, 2, 3), 12, stop_token_ids=[wanted[4]]))
    reports = [report for _ in range(6) for report in bench.step().progress]
    assert bench.answers["a"].stop_token_id == wanted[4]
    assert not any(progress.is_complete for progress in reports)


def test_the_executor_is_told_which_tokens_end_a_request() -> None:
    bench = Bench()
    bench.add(make_spec("a", (1,), eos_token_ids=(9, 5), stop_token_ids=[7]))
    bench.step()
    assert bench.runner.steps[0].new_requests[0].stop_token_ids == (5, 7, 9)


def test_a_repeated_prompt_computes_one_token() -> None:
    bench = Bench(block_size=4)
    prompt = tuple(range(18))
    bench.add(make_spec("a", prompt, 1))
    bench.run()
    bench.add(make_spec("b", prompt, 1), make_spec("c", prompt, 1, tenant="other"))
    answers = bench.run()
    assert [answers[name].num_cached_tokens for name in "abc"] == [0, 17, 0]
    assert answers["b"].token_ids == answers["a"].token_ids == answers["c"].token_ids


def test_outputs_are_found_by_the_next_turn() -> None:
    bench = Bench(block_size=4)
    bench.add(make_spec("a", (1, 2, 3), 6))
    first = bench.run()["a"].token_ids
    bench.add(make_spec("b", (1, 2, 3, *first, 99), 1))
    assert bench.run()["b"].num_cached_tokens == 8


def test_equal_prompts_that_arrive_together_are_computed_once() -> None:
    bench = Bench(num_blocks=200, block_size=4, max_num_batched_tokens=64)
    prompt = tuple(range(101))
    specs = [make_spec(f"r{i}", prompt, 4, seed=i) for i in range(8)]
    bench.add(*specs)
    check = bench.run()
    num_prompt_tokens = sum(
        len(row.token_ids)
        for step in bench.runner.steps
        for row in step.scheduled
        if row.num_computed_tokens < 101
    )
    assert num_prompt_tokens == 101 + 7
    for spec in specs:
        assert check[spec.request_id].token_ids == expected_output(prompt, spec.seed, 4, 1000)


def test_waiting_for_a_shared_prefix_holds_nobody_else_up() -> None:
    bench = Bench(block_size=4, max_num_batched_tokens=16)
    prompt = tuple(range(9))
    bench.add(make_spec("a", prompt), make_spec("b", prompt), make_spec("c", (500, 501)))
    bench.step()
    assert sizes(bench)[0] == {"a": 9, "c": 2}


def test_the_waiting_twin_runs_when_the_first_is_aborted() -> None:
    bench = Bench(block_size=4, max_num_batched_tokens=8)
    prompt = tuple(range(30))
    bench.add(make_spec("a", prompt), make_spec("b", prompt))
    bench.step()
    bench.scheduler.abort("a")
    answers = bench.run()
    assert answers["b"].token_ids == expected_output(prompt, 7, 8, 1000)
    assert answers["b"].num_cached_tokens == 8


def test_prompt_logprobs_skip_the_cache_and_survive_preemption() -> None:
    bench = Bench(num_blocks=10, block_size=4, max_num_batched_tokens=5, max_num_seqs=2)
    prompt = tuple(range(20))
    bench.add(make_spec("warm", prompt, 1))
    bench.run()
    bench.add(make_spec("scored", prompt, 12, prompt_logprobs=0))
    answer = bench.run()["scored"]
    assert answer.num_cached_tokens == 0
    assert [entry.token_id for entry in answer.prompt_logprobs] == list(prompt[1:])
    rows = [row for step in bench.runner.steps for row in step.scheduled][4:8]
    assert [row.num_logit_rows for row in rows] == [5, 5, 5, 5]


def test_a_prompt_of_one_token_has_no_prompt_logprobs() -> None:
    bench = Bench()
    bench.add(make_spec("a", (1,), 3, prompt_logprobs=1))
    answer = bench.run()["a"]
    assert answer.prompt_logprobs == ()
    assert len(answer.token_ids) == 3


def test_preempted_in_the_middle_of_a_scored_prompt() -> None:
    """Positions delivered before the preemption are computed again but not scored again."""
    bench = Bench(
        num_blocks=11,
        block_size=4,
        max_num_batched_tokens=4,
        max_num_seqs=2,
        has_prefix_cache=False,
    )
    bench.add(make_spec("old", (1, 2, 3), 25))
    bench.step()
    bench.add(make_spec("scored", tuple(range(100, 130)), 3, prompt_logprobs=1))
    answers = bench.run()
    assert answers["scored"].num_preemptions > 0
    scored = [entry.token_id for entry in answers["scored"].prompt_logprobs]
    assert scored == list(range(101, 130))


def test_priority_order_and_first_come_order() -> None:
    for policy, order in (("fcfs", "abcd"), ("priority", "cbda")):
        bench = Bench(max_num_seqs=1, policy=policy)
        for name, priority in zip("abcd", (5, 0, -3, 0), strict=True):
            bench.add(make_spec(name, (ord(name),), 2, priority=priority))
        assert "".join(bench.run()) == order


def test_the_least_urgent_is_preempted() -> None:
    bench = Bench(num_blocks=9, block_size=4, policy="priority", has_prefix_cache=False)
    bench.add(make_spec("low", (1,) * 9, 20, priority=9))
    bench.step()
    bench.add(make_spec("high", (2,) * 9, 20, priority=0))
    answers = bench.run()
    assert answers["high"].num_preemptions == 0
    assert answers["low"].num_preemptions > 0
    assert list(answers) == ["low", "high"]
    assert answers["low"].token_ids == expected_output((1,) * 9, 7, 20, 1000)


@pytest.mark.parametrize("num_steps", range(12))
def test_an_abort_at_any_step_frees_everything_and_disturbs_nobody(num_steps: int) -> None:
    bench = Bench(num_blocks=16, block_size=4, max_num_batched_tokens=8, max_num_seqs=3)
    specs = [make_spec(f"r{i}", tuple(range(i * 7, i * 7 + 11)), 9, seed=i) for i in range(5)]
    bench.add(*specs)
    for _ in range(num_steps):
        bench.step()
    victims = [spec.request_id for spec in specs[::2]]
    for request_id in victims:
        bench.scheduler.abort(request_id)
        bench.scheduler.abort(request_id)
        bench.scheduler.check_integrity()
    answers = bench.run()
    for spec in specs:
        answer = answers[spec.request_id]
        wanted = expected_output(spec.prompt_token_ids, spec.seed, 9, 1000)
        assert answer.token_ids == wanted[: len(answer.token_ids)]
        if spec.request_id not in victims:
            assert answer.token_ids == wanted
        assert answer.finish_reason in ("length", "abort")


def test_ten_thousand_aborts_leave_nothing_behind() -> None:
    bench = Bench(num_blocks=64, max_num_seqs=16, max_waiting_requests=200)
    for index in range(10_000):
        name = f"r{index}"
        bench.scheduler.add(make_spec(name, (index % 1000, index // 1000, 3, 4, 5)))
        if index % 50 == 0:
            bench.step()
        bench.scheduler.abort(name)
    bench.run()
    scheduler = bench.scheduler
    assert scheduler.num_unfinished == 0
    assert not scheduler.has_work
    places = scheduler._places
    kept = [places._requests, places.running, places._forgotten_ids, scheduler._ended]
    assert not any(kept)
    assert len(places.waiting) == 0
    assert not bench.kv_cache._claims


def test_a_result_that_does_not_fit_is_an_error() -> None:
    bench = Bench()
    bench.add(make_spec("a", (1,)))
    output = bench.scheduler.schedule()
    bench.runner.submit(output)
    result = bench.runner.collect()
    with pytest.raises(RuntimeError, match="came for step"):
        bench.scheduler.update(output, type(result)(99, result.rows))
    with pytest.raises(RuntimeError, match="chose no token"):
        bench.scheduler.update(output, type(result)(output.step_id, {"a": RowOutput()}))


def test_reports_carry_gauges_counters_and_times() -> None:
    bench = Bench(block_size=4)
    bench.add(make_spec("a", tuple(range(9)), 2))
    bench.clock.advance(2.0)
    report = bench.step()
    stats = report.stats
    assert (stats.num_running, stats.num_waiting, stats.num_scheduled_tokens) == (1, 0, 9)
    assert (stats.num_used_blocks, stats.num_blocks) == (3, 64)
    assert (stats.num_new_prefix_queries, stats.num_new_prefix_hits) == (9, 0)
    (progress,) = report.progress
    assert progress.scheduled_at_s is not None
    assert progress.scheduled_at_s - progress.queued_at_s == 2.0
    bench.add(make_spec("b", tuple(range(9)), 2))
    stats = bench.step().stats
    assert (stats.num_new_prefix_queries, stats.num_new_prefix_hits) == (9, 8)
    assert bench.step().stats.num_new_prefix_queries == 0


@pytest.mark.parametrize("is_together", [False, True])
def test_a_long_shared_beginning_is_computed_once(is_together: bool) -> None:
    """32 requests with 1,000 tokens in common, 31 blocks and 8: 31 compute their question."""
    bench = Bench(
        num_blocks=200, block_size=32, max_num_batched_tokens=512, max_num_seqs=32,
        max_model_len=2000,
    )  # fmt: skip
    beginning = tuple(range(1000))
    num_scheduled = 0
    schedule = bench.scheduler.schedule

    def counted() -> SchedulerOutput:
        nonlocal num_scheduled
        output = schedule()
        num_scheduled += output.num_scheduled_tokens
        return output

    bench.scheduler.schedule = counted  # type: ignore[method-assign]
    for index in range(32):
        bench.add(make_spec(f"r{index}", (*beginning, 500 + index, 3, index), max_tokens=1))
        if not is_together:
            bench.run()
    answers = bench.run()
    cached = [answers[f"r{index}"].num_cached_tokens for index in range(32)]
    assert cached == [0, *[1000] * 31]
    assert num_scheduled == 1003 + 31 * 3


def slow_step(bench: Bench, seconds: float) -> StepReport:
    output = bench.scheduler.schedule()
    bench.runner.submit(output)
    bench.clock.advance(seconds)
    return bench.scheduler.update(output, bench.runner.collect())


def test_the_tokens_of_a_step_share_its_time() -> None:
    """A step of 3 s with a prompt; then 8 s with an answer beside another prompt of 7."""
    bench = Bench(max_num_batched_tokens=32)
    bench.add(make_spec("a", (1, 2, 3), 2))
    ended = [slow_step(bench, 3.0)]
    bench.add(make_spec("b", tuple(range(10, 17)), 2))
    ended += [slow_step(bench, 8.0), slow_step(bench, 2.0)]
    found = {
        each.request_id: (each.prefill_compute_s, each.decode_compute_s)
        for report in ended
        for each in report.progress
        if each.finish_reason is not None
    }
    assert found == {"a": (3.0, 1.0), "b": (7.0, 2.0)}
