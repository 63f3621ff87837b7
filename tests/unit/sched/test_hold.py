"""A scheduler that is held, and prefixes that are forgotten: every answer is what it would be."""

from __future__ import annotations

from fakes.fake_runner import expected_output
from fakes.scheduling import Bench, make_spec, right


def run_held(bench: Bench) -> None:
    """Step until nothing moves."""
    for _ in range(1000):
        if not bench.scheduler.has_work:
            return
        bench.step()
    raise AssertionError("it never stands still")


def test_while_admissions_are_held_those_that_run_end_and_the_others_wait() -> None:
    bench = Bench(max_num_seqs=1)
    bench.add(make_spec("runs", (1, 2)), make_spec("waits", (3,)))
    bench.step()
    bench.scheduler.hold("admissions")
    bench.add(make_spec("late", (4,)))
    run_held(bench)
    assert set(bench.answers) == {"runs"} and right(bench, "runs", (1, 2))
    reasons = {row.request_id: row.waits_for for row in bench.scheduler.inspect()}
    assert reasons == {"waits": "pause", "late": "turn"}
    bench.scheduler.hold(None)
    bench.run()
    assert right(bench, "waits", (3,)) and right(bench, "late", (4,))


def test_while_everything_is_held_nothing_moves_and_nothing_is_lost() -> None:
    bench = Bench()
    bench.add(make_spec("a", (1, 2)))
    bench.step()
    bench.scheduler.hold("everything")
    bench.add(make_spec("b", (3,)))
    assert not bench.scheduler.has_work
    used = bench.kv_cache.usage
    reasons = {row.request_id: row.waits_for for row in bench.scheduler.inspect()}
    assert reasons == {"a": "pause", "b": "pause"}
    bench.scheduler.abort("b")
    run_held(bench)
    assert bench.answers["b"].finish_reason == "abort"
    assert bench.kv_cache.usage == used > 0
    bench.scheduler.hold(None)
    bench.run()
    assert right(bench, "a", (1, 2))
    assert bench.answers["a"].num_preemptions == 0


def test_a_preempted_request_runs_on_while_admissions_are_held() -> None:
    bench = Bench(num_blocks=5)
    first, second = tuple(range(8)), tuple(range(100, 107))
    bench.add(make_spec("a", first, 10), make_spec("b", second, 4), make_spec("c", (5,), 2))
    while not any(request.num_preemptions for request in bench.scheduler._places.waiting):
        bench.step()
    bench.scheduler.hold("admissions")
    waiting = [request.request_id for request in bench.scheduler._places.waiting]
    assert waiting == ["b", "c"]
    run_held(bench)
    assert right(bench, "a", first, 10) and right(bench, "b", second, 4)
    assert "c" not in bench.answers
    bench.scheduler.hold(None)
    bench.run()
    assert right(bench, "c", (5,), 2)


def test_an_answer_of_an_engine_that_ended_goes_on_while_admissions_are_held() -> None:
    bench = Bench()
    bench.scheduler.hold("admissions")
    whole = expected_output((1, 2), 7, 8, 1000)
    bench.add(make_spec("begun", (1, 2), output_token_ids=whole[:3]), make_spec("new", (9,)))
    run_held(bench)
    assert bench.answers["begun"].token_ids == whole[3:]
    assert "new" not in bench.answers
    bench.scheduler.hold(None)
    bench.run()


def test_prefixes_are_forgotten_where_no_request_holds_blocks() -> None:
    bench = Bench()
    prompt = tuple(range(20))
    bench.add(make_spec("a", prompt))
    bench.run()
    bench.add(make_spec("b", prompt))
    bench.step()
    assert not bench.scheduler.reset_prefixes()
    bench.run()
    assert bench.answers["b"].num_cached_tokens == 19
    assert bench.scheduler.reset_prefixes()
    assert bench.kv_cache.num_cached_blocks == 0
    bench.add(make_spec("c", prompt))
    bench.run()
    assert bench.answers["c"].num_cached_tokens == 0
    assert right(bench, "c", prompt)


def test_running_requests_are_computed_again_where_that_is_wanted() -> None:
    bench = Bench()
    prompts = {"a": tuple(range(20)), "b": tuple(range(50, 60))}
    bench.add(*(make_spec(name, prompt) for name, prompt in prompts.items()))
    for _ in range(3):
        bench.step()
    assert bench.scheduler.reset_prefixes(reset_running=True)
    bench.scheduler.check_integrity()
    assert bench.kv_cache.usage == 0.0
    bench.run()
    for name, prompt in prompts.items():
        assert right(bench, name, prompt)
        assert bench.answers[name].num_preemptions == 1


def test_background_requests_that_run_end_though_others_wait_for_the_end_of_the_pause() -> None:
    bench = Bench(max_mixed_background_tokens=0)
    bench.add(make_spec("background", (1, 2), is_background=True))
    bench.step()
    bench.scheduler.hold("admissions")
    bench.add(make_spec("late", (3,)))
    run_held(bench)
    assert right(bench, "background", (1, 2)) and "late" not in bench.answers
    bench.scheduler.hold(None)
    bench.run()
    assert right(bench, "late", (3,))


def test_nobody_waits_for_a_prefix_while_everything_is_held() -> None:
    bench = Bench()
    prompt = tuple(range(8))
    bench.add(make_spec("a", prompt), make_spec("b", prompt), make_spec("c", (5,)))
    assert bench.step().stats.num_deferred == 1
    bench.scheduler.hold("everything")
    bench.scheduler.abort("c")
    stats = bench.step().stats
    assert (stats.num_waiting, stats.num_deferred) == (1, 0)
