"""What the scheduler says of each request between two steps, and why it waits."""

from __future__ import annotations

from fakes.scheduling import Bench, make_spec
from headrace.core.activity import AnswerActivity


def inspect(bench: Bench) -> dict[str, AnswerActivity]:
    return {row.request_id: row for row in bench.scheduler.inspect()}


def reasons(bench: Bench) -> dict[str, str | None]:
    return {name: row.waits_for for name, row in inspect(bench).items()}


def numbers(count: int, start: int = 0) -> tuple[int, ...]:
    return tuple(range(start, start + count))


def test_seats_and_the_queue_behind_with_other_tenants_in_it() -> None:
    bench = Bench(max_num_seqs=1)
    bench.add(make_spec("a", (1,), tenant="x"))
    assert reasons(bench) == {"a": "step"}
    bench.step()
    bench.add(
        *(
            make_spec(n, (i,), tenant=t)
            for i, (n, t) in enumerate((("b", "x"), ("c", "y"), ("d", "x")))
        )
    )
    bench.step()
    assert reasons(bench) == {"a": None, "b": "seats", "c": "turn", "d": "turn"}
    rows = inspect(bench)
    assert [rows[n].queue_position for n in ("a", "b", "c", "d")] == [None, 1, 2, 3]
    assert [rows[n].num_others_ahead for n in ("b", "c", "d")] == [0, 1, 1]


def test_tokens_of_a_step_go_to_a_long_prompt() -> None:
    bench = Bench(max_num_batched_tokens=8)
    bench.add(make_spec("long", numbers(20)), make_spec("late", (99,)))
    bench.step()
    assert reasons(bench) == {"long": None, "late": "tokens"}
    row = inspect(bench)["long"]
    assert (row.num_computed_tokens, row.num_output_tokens, row.num_blocks) == (8, 0, 5)
    bench.step()
    bench.step()
    assert reasons(bench)["late"] is None
    assert inspect(bench)["long"].num_output_tokens == 1


def test_blocks_that_are_not_free() -> None:
    bench = Bench(num_blocks=8)
    bench.add(make_spec("a", numbers(20)), make_spec("b", numbers(16, 50)))
    bench.step()
    assert reasons(bench) == {"a": None, "b": "kv_blocks"}


def test_blocks_after_a_preemption() -> None:
    bench = Bench(num_blocks=5)
    bench.add(make_spec("a", numbers(7)), make_spec("b", numbers(7, 50)))
    while not inspect(bench)["b"].num_preemptions:
        bench.step()
    assert reasons(bench) == {"a": None, "b": "kv_blocks"}


def test_a_prefix_that_another_one_computes_holds_nobody_else_up() -> None:
    bench = Bench(max_num_batched_tokens=8)
    bench.add(make_spec("first", numbers(21)))
    bench.step()
    bench.add(make_spec("same", numbers(24)), make_spec("other", (99,)))
    bench.step()
    assert reasons(bench) == {"first": None, "same": "tokens", "other": "turn"}
    report = bench.step()
    assert reasons(bench) == {"first": None, "same": "prefix", "other": None}
    assert report.stats.num_deferred == 1


def test_background_waits_for_interactive_requests() -> None:
    bench = Bench(max_mixed_background_tokens=0)
    bench.add(make_spec("batch", (1,), is_background=True), make_spec("a", (2,)))
    bench.step()
    assert reasons(bench) == {"a": None, "batch": "interactive"}
