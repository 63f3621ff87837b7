"""Drafts in the scheduler: who computes them, what is counted, and what they may not take."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.fake_runner import expected_output
from fakes.scheduling import Answer, Bench, make_spec
from headrace.core.step import ModelRunnerOutput, SchedulerOutput
from headrace.executor.drafting_runner import Runner


class Told:
    """Drafts the true continuation, `num_right` tokens of it, and then `num_wrong` others."""

    runs_ahead = False

    def __init__(self, runner: Runner, num_right: int, num_wrong: int = 0) -> None:
        self._runner, self._num_right, self._num_wrong = runner, num_right, num_wrong
        self._texts: dict[str, list[int]] = {}
        self._seeds: dict[str, int] = {}

    def submit(self, output: SchedulerOutput) -> None:
        for new in output.new_requests:
            self._texts[new.request_id] = list(new.prompt_token_ids)
            self._seeds[new.request_id] = new.seed
        self._runner.submit(output)

    def collect(self) -> ModelRunnerOutput:
        result = self._runner.collect()
        rows: dict[str, Any] = {}
        for name, row in result.rows.items():
            text = self._texts[name]
            text += row.token_ids
            right = expected_output(text, self._seeds[name], self._num_right, 1000)
            drafts = (*right, *[1001] * self._num_wrong)
            rows[name] = row._replace(draft_token_ids=drafts if row.token_ids else ())
        return ModelRunnerOutput(result.step_id, rows)


def bench(num_right: int, num_wrong: int = 0, **changes: Any) -> Bench:
    return Bench(drafts=lambda runner: Told(runner, num_right, num_wrong), **changes)


def ask(made: Bench, *specs: Any) -> dict[str, Answer]:
    made.add(*specs)
    return made.run()


def test_right_drafts_save_steps() -> None:
    made = bench(num_right=3)
    answer = ask(made, make_spec("a", (1, 2, 3), max_tokens=13))["a"]
    assert answer.token_ids == expected_output((1, 2, 3), 7, 13, 1000)
    # The prompt's token, then three steps of four: the last token of all needs no row of its own.
    assert [len(step.scheduled[0].token_ids) for step in made.runner.steps[:4]] == [3, 4, 4, 4]
    assert (answer.num_draft_tokens, answer.num_accepted_tokens) == (9, 9)


def test_wrong_drafts_are_counted_and_leave_nothing() -> None:
    made = bench(num_right=1, num_wrong=2)
    answer = ask(made, make_spec("a", (1, 2, 3), max_tokens=9))["a"]
    assert answer.token_ids == expected_output((1, 2, 3), 7, 9, 1000)
    assert answer.num_accepted_tokens == 4
    assert answer.num_draft_tokens > 8


def test_no_draft_reaches_past_the_last_token() -> None:
    made = bench(num_right=9)
    ask(made, make_spec("a", (1, 2, 3), max_tokens=4))
    assert [len(step.scheduled[0].token_ids) for step in made.runner.steps[:2]] == [3, 3]


def test_a_stop_token_inside_a_draft_ends_the_answer() -> None:
    said = expected_output((1, 2, 3), 7, 9, 1000)
    spec = make_spec("a", (1, 2, 3), max_tokens=9, stop_token_ids=[said[4]], logprobs=0)
    answer = ask(bench(num_right=7), spec)["a"]
    assert answer.token_ids == said[:5]
    assert len(answer.logprobs) == 5
    assert (answer.finish_reason, answer.stop_token_id) == ("stop", said[4])
    assert answer.num_accepted_tokens == 3


def test_every_running_request_has_its_token_before_any_draft() -> None:
    made = bench(num_right=5, max_num_batched_tokens=8, max_num_seqs=4)
    answers = ask(made, *[make_spec(f"r{i}", (i, i + 1), max_tokens=12) for i in range(4)])
    for name, answer in answers.items():
        prompt = (int(name[1:]), int(name[1:]) + 1)
        assert answer.token_ids == expected_output(prompt, 7, 12, 1000)
    full = [step for step in made.runner.steps if len(step.scheduled) == 4]
    assert any(row.num_draft_tokens for step in full for row in step.scheduled)


def test_drafts_take_no_blocks_that_others_need() -> None:
    """Nobody is stopped for a guess: with and without drafts the same requests are preempted."""
    specs = [make_spec(f"r{i}", tuple(range(8 * i, 8 * i + 7)), max_tokens=9) for i in range(3)]
    counts = []
    for num_right in (0, 3):
        made = bench(num_right=num_right, num_blocks=8, max_num_seqs=3)
        counts.append(sum(answer.num_preemptions for answer in ask(made, *specs).values()))
    assert counts[1] <= counts[0]


def test_drafts_starve_no_prompt() -> None:
    """Also where they could fill every step to its last token."""
    made = bench(num_right=9, max_num_batched_tokens=8, max_num_seqs=4)
    made.add(make_spec("a", (1, 2, 3), max_tokens=200))
    made.step()
    made.step()
    made.add(make_spec("b", tuple(range(9)), max_tokens=2))
    for _ in range(3):  # of seven tokens beside that of the answer, guesses have three
        assert "b" not in made.answers
        made.step()
    assert made.answers["b"].token_ids
    assert made.answers["a"].num_accepted_tokens > 9
    assert made.run()["a"].token_ids == expected_output((1, 2, 3), 7, 200, 1000)


@pytest.mark.parametrize("num_right", [0, 3])
def test_counters_of_a_step(num_right: int) -> None:
    made = bench(num_right=num_right)
    made.add(make_spec("a", (1, 2, 3), max_tokens=9))
    made.step()
    stats = made.step().stats
    assert stats.num_new_drafts == bool(num_right)
    assert stats.num_new_draft_tokens == stats.num_new_accepted_tokens == num_right


def test_the_last_block_of_an_ended_answer_is_found_again() -> None:
    made = bench(num_right=6)
    first = ask(made, make_spec("a", (1, 2, 3), max_tokens=14))["a"]
    following = (1, 2, 3, *first.token_ids, 5)
    made.answers.clear()
    again = ask(made, make_spec("b", following, max_tokens=1))["b"]
    assert again.num_cached_tokens == 16
    assert again.token_ids == expected_output(following, 7, 1, 1000)


def test_no_room_is_kept_for_guesses_past_the_last_token() -> None:
    made = bench(num_right=3, num_lookahead_tokens=7)
    ask(made, make_spec("a", (1, 2, 3), max_tokens=5))
    assert [len(step.scheduled[0].block_ids) for step in made.runner.steps[:2]] == [1, 2]
