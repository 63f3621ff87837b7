"""Beginnings of blocks: copied from one that goes on differently, or that nobody has filled."""

from __future__ import annotations

from fakes.fake_runner import expected_output
from fakes.scheduling import Bench, make_spec, right


def test_many_answers_of_a_prompt_shorter_than_a_block_compute_it_once() -> None:
    bench = Bench(num_blocks=200, block_size=32, max_num_batched_tokens=64, max_num_seqs=16)
    prompt = tuple(range(30))
    specs = [make_spec(f"r{i}", prompt, 4, seed=i) for i in range(16)]
    bench.add(*specs)
    answers = bench.run()
    rows = [row for step in bench.runner.steps for row in step.scheduled]
    assert sum(len(row.token_ids) for row in rows if row.num_computed_tokens < 30) == 30 + 15
    for spec in specs:
        assert answers[spec.request_id].token_ids == expected_output(prompt, spec.seed, 4, 1000)


def test_a_beginning_is_copied_from_a_block_that_goes_on_differently() -> None:
    bench = Bench(block_size=8)
    shared = tuple(range(13))
    bench.add(make_spec("a", (*shared, 100, 101, 102, 103), 8))
    bench.step()
    bench.add(make_spec("b", (*shared, 200, 201), 8), make_spec("c", (0, 1, 2, 300), 8))
    bench.step()
    answers = bench.run()
    assert [answers[name].num_cached_tokens for name in "abc"] == [0, 13, 3]
    assert right(bench, "b", (*shared, 200, 201))
    assert right(bench, "c", (0, 1, 2, 300))
    sizes = {row.request_id: len(row.token_ids) for row in bench.runner.steps[1].scheduled}
    assert sizes == {"a": 1, "b": 2, "c": 1}


def test_the_waiting_twin_of_a_short_prompt_runs_when_the_first_is_aborted() -> None:
    bench = Bench(block_size=32, max_num_batched_tokens=32)
    prompt = tuple(range(20))
    bench.add(make_spec("a", prompt), make_spec("b", prompt))
    assert bench.step().stats.num_deferred == 1
    bench.scheduler.abort("a")
    answers = bench.run()
    assert answers["b"].num_cached_tokens == 19, "what the first had computed is there"
    assert right(bench, "b", prompt)


def test_the_end_of_an_answer_is_found_by_the_next_turn() -> None:
    bench = Bench(block_size=8)
    bench.add(make_spec("a", (1, 2, 3), 4))
    first = bench.run()["a"].token_ids
    prompt = (1, 2, 3, *first, 99)
    bench.add(make_spec("b", prompt, 3))
    assert bench.run()["b"].num_cached_tokens == 6, "the last token was chosen, not computed"
    assert right(bench, "b", prompt, 3)


def test_the_block_that_is_copied_may_be_the_one_that_is_given() -> None:
    """Two blocks: the end of the first sequence is the only one that is free."""
    bench = Bench(num_blocks=2, block_size=8, max_num_seqs=2)
    bench.add(make_spec("a", (1, 2, 3, 4, 5), 3))
    bench.run()
    bench.add(make_spec("long", (9,), 6))
    bench.step()
    bench.add(make_spec("b", (1, 2, 3, 7), 2))
    answers = bench.run()
    assert answers["b"].num_cached_tokens == 3
    assert right(bench, "b", (1, 2, 3, 7), 2)
    assert not any(step.block_copies for step in bench.runner.steps)
