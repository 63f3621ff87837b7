"""Background requests run with what is left: they never cost an interactive one a place, a seat, a
block or more than a few tokens of a step, and they get on whenever there is room."""

from __future__ import annotations

import random
from itertools import count

import pytest

from fakes.fake_runner import expected_output
from fakes.scheduling import Bench, make_spec
from headrace.sched.request_state import RequestSpec


def batch(name: str, prompt: tuple[int, ...], max_tokens: int = 8, **rest: object) -> RequestSpec:
    return make_spec(name, prompt, max_tokens, is_background=True, **rest)


def numbers(count: int, start: int = 0) -> tuple[int, ...]:
    return tuple(range(start, start + count))


def sizes(bench: Bench) -> list[dict[str, int]]:
    return [
        {row.request_id: len(row.token_ids) for row in step.scheduled}
        for step in bench.runner.steps
        if step.scheduled
    ]


@pytest.mark.parametrize("policy", ["fair", "fcfs", "priority"])
def test_whoever_comes_later_is_admitted_before_a_batch_that_waits(policy: str) -> None:
    bench = Bench(max_num_seqs=1, policy=policy)
    bench.add(*(batch(f"b{i}", (i,), 2, priority=-5) for i in range(3)))
    bench.step()
    bench.add(make_spec("a", (9,), 2, priority=5))
    order = [next(iter(step)) for step in sizes_until_done(bench)]
    assert order == ["b0", "a", "a", "b0", "b1", "b1", "b2", "b2"]
    assert bench.answers["b0"].num_preemptions == 1


def sizes_until_done(bench: Bench) -> list[dict[str, int]]:
    bench.run()
    return sizes(bench)


def test_a_batch_has_few_tokens_of_a_step_while_others_are_served() -> None:
    bench = Bench(max_num_batched_tokens=32, max_mixed_background_tokens=3)
    bench.add(*(batch(f"b{i}", numbers(6, 10 * i), 9) for i in range(4)))
    bench.step()
    bench.add(make_spec("a", numbers(5, 90), 6), batch("late", numbers(20, 50), 2))
    for _ in range(6):
        bench.step()
    mixed = sizes(bench)[1:]
    assert [step["a"] for step in mixed] == [5, 1, 1, 1, 1, 1]
    assert all(sum(n for name, n in step.items() if name != "a") == 3 for step in mixed)
    assert not any("late" in step or "b3" in step for step in mixed)
    # Alone again, everything runs at once.
    assert sizes_until_done(bench)[7] == {"b0": 1, "b1": 1, "b2": 1, "b3": 1, "late": 20}


def test_a_batch_gets_on_under_an_endless_flow_of_others() -> None:
    bench = Bench(max_num_batched_tokens=16, max_num_seqs=4, max_mixed_background_tokens=2)
    bench.add(batch("b", numbers(30), 5))
    names = count()
    for number in names:
        bench.add(make_spec(f"a{number}", (number % 50, 7), 3))
        bench.step()
        if "b" in bench.answers and bench.answers["b"].finish_reason:
            break
        assert number < 100
    shares = [
        {row.request_id: len(row.token_ids) for row in step.scheduled}.get("b", 0)
        for step in bench.runner.steps
    ]
    assert set(shares) <= {0, 1, 2}


def test_without_a_share_batches_wait_for_an_idle_engine() -> None:
    bench = Bench(max_mixed_background_tokens=0)
    bench.add(batch("b", numbers(4), 4))
    bench.step()
    bench.add(make_spec("a", numbers(5, 90), 3))
    assert sizes_until_done(bench) == [
        {"b": 4}, {"a": 5}, {"a": 1}, {"a": 1}, {"b": 1}, {"b": 1}, {"b": 1},
    ]  # fmt: skip


def test_a_batch_gives_its_blocks_to_a_request_that_needs_them() -> None:
    """Twelve of sixteen blocks are batches' when a request arrives that needs six."""
    bench = Bench(num_blocks=16, has_prefix_cache=False, max_num_batched_tokens=64)
    bench.add(*(batch(f"b{i}", numbers(15, 20 * i), 30) for i in range(4)))
    bench.step()
    assert bench.kv_cache.usage == 0.75
    bench.add(make_spec("a", numbers(20, 100), 4))
    bench.step()
    assert sizes(bench)[-1] == {"a": 20}
    assert sum(answer.num_preemptions for answer in bench.run().values()) >= 1


def test_nobody_waits_for_a_block_that_a_batch_computes_slowly() -> None:
    """The beginning is the same; two of three tokens a step would take eight steps."""
    bench = Bench(max_num_batched_tokens=64, max_mixed_background_tokens=2)
    shared = numbers(32)
    bench.add(make_spec("first", (99,), 40))
    bench.step()
    bench.add(batch("b", (*shared, 50), 2))
    bench.step()
    bench.add(make_spec("a", (*shared, 60), 2))
    bench.step()
    assert sizes(bench)[-1] == {"first": 1, "b": 2, "a": 33}
    bench.run()


@pytest.mark.parametrize("seed", range(6))
def test_interactive_requests_run_step_by_step_as_if_there_were_no_batch(seed: int) -> None:
    """The same arrivals with and without batches: each interactive request gets its tokens in the
    same steps, whatever is behind it."""

    def arrivals(with_batches: bool) -> list[list[RequestSpec]]:
        source, names = random.Random(seed), count()
        steps = []
        for _ in range(40):
            prompt = numbers(source.randrange(1, 30), 1000 * next(names))
            length, is_there = source.randrange(1, 12), source.random() < 0.3
            specs = [make_spec(f"a{prompt[0]}", prompt, length, tenant="t")] if is_there else []
            if with_batches:
                start = 1000 * next(names) + 500
                specs.append(batch(f"b{start}", numbers(len(prompt), start), length, tenant="t"))
            else:
                next(names)
            steps.append(specs)
        return steps

    def schedule(with_batches: bool) -> list[dict[str, int]]:
        bench = Bench(
            num_blocks=200, max_num_batched_tokens=48, max_num_seqs=6, policy="fair",
            vocab_size=10**6,
        )  # fmt: skip
        steps = []
        for specs in arrivals(with_batches):
            bench.add(*specs)
            bench.step()
            last = bench.runner.steps[-1].scheduled
            steps.append({r.request_id: len(r.token_ids) for r in last if r.request_id[0] == "a"})
        for name, answer in bench.run().items():
            assert answer.finish_reason == "length", name
        return steps

    assert schedule(with_batches=True) == schedule(with_batches=False)


def test_answers_of_batches_are_the_same_whatever_stops_them() -> None:
    source = random.Random(4)
    bench = Bench(num_blocks=24, max_num_seqs=4, max_mixed_background_tokens=2)
    specs = [
        make_spec(
            f"r{i}", numbers(source.randrange(1, 30), 40 * i), source.randrange(1, 20),
            seed=i, is_background=i % 2 == 0,
        )
        for i in range(20)
    ]  # fmt: skip
    for spec in specs:
        bench.add(spec)
        bench.step()
    answers = bench.run()
    assert sum(answer.num_preemptions for answer in answers.values()) >= 3
    for spec in specs:
        wanted = expected_output(spec.prompt_token_ids, spec.seed, spec.max_tokens, 1000)
        assert answers[spec.request_id].token_ids == wanted


def test_reports_tell_who_holds_nobody_up() -> None:
    bench = Bench(max_num_seqs=2)
    bench.add(*(batch(f"b{i}", (i,), 5) for i in range(3)), make_spec("a", (9,), 5))
    stats = bench.step().stats
    assert (stats.num_running, stats.num_background_running) == (1, 0)
    assert (stats.num_waiting, stats.num_background_waiting) == (3, 3)


def test_a_batch_costs_its_tenant_no_place_among_others() -> None:
    bench = Bench(max_num_seqs=1, policy="fair", max_num_batched_tokens=64)
    bench.add(*(batch(f"b{i}", numbers(40, 50 * i), 20, tenant="mine") for i in range(4)))
    bench.add(make_spec("mine", (1,), 2, tenant="mine"))
    bench.add(make_spec("yours", (2,), 2, tenant="yours"))
    order = [next(iter(step)) for step in sizes_until_done(bench)]
    assert order[:4] == ["mine", "mine", "yours", "yours"]
