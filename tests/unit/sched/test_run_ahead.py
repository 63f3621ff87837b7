"""A step that is planned while the last one is on its way, over a device that is late."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.fake_runner import expected_output
from fakes.scheduling import Bench, make_spec
from headrace.core.errors import InvalidParameter


def ahead(**changes: Any) -> Bench:
    return Bench(is_ahead=True, **changes)


def said(prompt: tuple[int, ...], num_tokens: int) -> tuple[int, ...]:
    return expected_output(prompt, 7, num_tokens, 1000)


def scheduled_tokens(bench: Bench) -> list[int]:
    return [step.num_scheduled_tokens for step in bench.runner.steps]


def test_each_step_is_submitted_before_the_last_one_is_over() -> None:
    bench = ahead()
    bench.add(make_spec("a", (1, 2, 3), 6))
    assert bench.run()["a"].token_ids == said((1, 2, 3), 6)
    assert bench.device is not None
    assert (bench.device.num_ahead, bench.device.num_unknown) == (5, 5)
    # The prompt, then a token each; the end at the length limit is seen beforehand.
    assert scheduled_tokens(bench) == [3, 1, 1, 1, 1, 1, 0]


def test_a_report_comes_with_each_step() -> None:
    bench = ahead()
    bench.add(make_spec("a", (1, 2, 3), 3))
    told = [bench.step().progress[0].new_token_ids for _ in range(3)]
    assert tuple(token for tokens in told for token in tokens) == said((1, 2, 3), 3)


def test_chunks_of_prompts_are_planned_ahead_too() -> None:
    bench = ahead(max_num_batched_tokens=8)
    long = tuple(range(20))
    bench.add(make_spec("a", (1, 2, 3), 6), make_spec("long", long, 3))
    answers = bench.run()
    assert answers["a"].token_ids == said((1, 2, 3), 6)
    assert answers["long"].token_ids == said(long, 3)
    assert scheduled_tokens(bench)[:4] == [8, 8, 8, 2]


def test_a_stop_token_is_seen_late_and_what_was_computed_behind_it_is_dropped() -> None:
    bench = ahead()
    tokens = said((1, 2, 3), 8)
    bench.add(make_spec("a", (1, 2, 3), 8, stop_token_ids=[tokens[3]]))
    for _ in range(4):
        bench.step()
    answer = bench.answers["a"]
    assert (answer.token_ids, answer.finish_reason) == (tokens[:4], "stop")
    assert answer.stop_token_id == tokens[3]
    assert bench.kv_cache.usage > 0, "the step behind it still writes"
    bench.run()
    assert bench.answers["a"].token_ids == tokens[:4]
    assert scheduled_tokens(bench) == [3, 1, 1, 1, 1, 0]


def test_an_abort_in_mid_flight_is_told_at_once_and_frees_nothing_too_early() -> None:
    bench = ahead()
    bench.add(make_spec("a", (1, 2, 3)), make_spec("b", (4, 5)))
    bench.step()
    bench.scheduler.abort("a")
    assert bench.kv_cache.pool.num_used_blocks == 2
    with pytest.raises(InvalidParameter, match="not in use"):
        bench.add(make_spec("a", (9,)))
    report = bench.step()
    assert report.progress[0].finish_reason == "abort"
    assert bench.kv_cache.pool.num_used_blocks == 1
    bench.add(make_spec("a", (9,)))
    bench.answers.pop("a")
    answers = bench.run()
    assert answers["a"].token_ids == said((9,), 8)
    assert answers["b"].token_ids == said((4, 5), 8)


def test_where_one_has_to_be_stopped_the_step_on_its_way_is_waited_for() -> None:
    bench = ahead(num_blocks=12, max_num_batched_tokens=64, has_prefix_cache=False)
    prompts = {f"r{i}": tuple(range(i, i + 9)) for i in range(4)}
    bench.add(*(make_spec(name, prompt, 30) for name, prompt in prompts.items()))
    answers = bench.run()
    assert sum(answer.num_preemptions for answer in answers.values()) > 0
    for name, prompt in prompts.items():
        assert answers[name].token_ids == said(prompt, 30)


def test_a_background_request_makes_way_between_two_steps() -> None:
    bench = ahead(max_num_seqs=1)
    bench.add(make_spec("back", (1, 2), 9, is_background=True))
    bench.step()
    bench.add(make_spec("front", (3, 4), 2))
    answers = bench.run()
    assert answers["back"].num_preemptions == 1
    assert answers["back"].token_ids == said((1, 2), 9)
    assert answers["front"].token_ids == said((3, 4), 2)


@pytest.mark.parametrize(
    "changes",
    [{"logprobs": 0}, {"prompt_logprobs": 0}, {"predicted_token_ids": (1,)}, {"pooling": "last"}],
    ids=lambda changes: next(iter(changes)),
)
def test_requests_that_are_not_plain_hold_the_others_to_one_step_at_a_time(changes: Any) -> None:
    bench = ahead()
    bench.add(make_spec("plain", (1, 2, 3), 20))
    for _ in range(3):
        bench.step()
    assert bench.device is not None
    before = bench.device.num_ahead
    bench.add(make_spec("other", (4, 5), 4, **changes))
    while "other" not in bench.answers or bench.answers["other"].finish_reason is None:
        bench.step()
    assert bench.device.num_ahead == before
    assert bench.run()["plain"].token_ids == said((1, 2, 3), 20)
    assert bench.device.num_ahead > before


def test_a_prefix_is_found_when_its_step_is_over() -> None:
    bench = ahead()
    prefix = tuple(range(8))
    bench.add(make_spec("a", (*prefix, 50), 3), make_spec("b", (*prefix, 60), 3))
    answers = bench.run()
    assert answers["b"].num_cached_tokens == 8
    assert answers["b"].token_ids == said((*prefix, 60), 3)


def test_a_step_takes_as_long_as_from_the_last_report() -> None:
    bench = ahead()
    bench.add(make_spec("a", (1, 2, 3), 4))
    bench.clock.advance(5.0)
    assert bench.step().stats.step_s == 0.0
    bench.clock.advance(2.0)
    assert bench.step().stats.step_s == 2.0


def test_what_is_on_its_way_lands_before_an_order() -> None:
    bench = ahead()
    bench.add(make_spec("a", (1, 2, 3), 8))
    bench.step()
    assert bench.engine.has_work
    bench.land()
    assert bench.answers["a"].token_ids == said((1, 2, 3), 2)
    assert bench.engine.land() is None
    bench.scheduler.hold("everything")
    assert not bench.engine.has_work
    bench.scheduler.reset_prefixes(reset_running=True)
    bench.scheduler.hold(None)
    assert bench.run()["a"].token_ids == said((1, 2, 3), 8)
