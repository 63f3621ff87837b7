"""The runner that guesses, over the fake model: whom it guesses for, and what it keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fakes.fake_clock import FakeClock
from fakes.fake_runner import expected_output
from fakes.scheduling import Answer, Bench, make_spec
from headrace.executor.drafting_runner import DraftingRunner, Runner
from headrace.spec.past_answers import PastAnswers

PROMPT = (1, 2, 3)
SAID = expected_output(PROMPT, 7, 30, 1000)


class Watched(Bench):
    """A bench that shows its guessing runner."""

    def __init__(self, is_for_all: bool, **changes: Any) -> None:
        self.is_for_all = is_for_all
        super().__init__(drafts=self.wrap, **changes)

    def wrap(self, runner: Runner) -> Runner:
        self.guessing = DraftingRunner(runner, FakeClock(), self.is_for_all)
        return self.guessing

    def ask(self, *specs: Any) -> dict[str, Answer]:
        self.add(*specs)
        answers = self.run()
        self.scheduler.schedule()
        return answers


def test_a_right_prediction_saves_steps() -> None:
    made = Watched(is_for_all=False)
    spec = replace(make_spec("a", PROMPT, max_tokens=30), predicted_token_ids=SAID)
    answer = made.ask(spec)["a"]
    assert answer.token_ids == SAID
    assert answer.num_accepted_tokens > 20
    assert len(made.runner.steps) < 12


def test_a_prediction_that_is_wrong_in_one_place() -> None:
    made = Watched(is_for_all=False)
    wrong = (*SAID[:12], 1, *SAID[13:])
    spec = replace(make_spec("a", PROMPT, max_tokens=30), predicted_token_ids=wrong)
    answer = made.ask(spec)["a"]
    assert answer.token_ids == SAID
    assert answer.num_accepted_tokens > 15


def test_without_a_prediction_nobody_guesses_unless_for_all() -> None:
    repeated = (5, 6, 7, 8) * 4
    for is_for_all in (False, True):
        made = Watched(is_for_all)
        made.runner._model = lambda token_ids, new: token_ids[len(token_ids) - 4]
        answer = made.ask(make_spec("a", repeated, max_tokens=40))["a"]
        assert answer.token_ids == (5, 6, 7, 8) * 10
        assert (answer.num_accepted_tokens > 25) == is_for_all


@pytest.mark.parametrize("num_requests", [1, 40])
def test_nothing_is_kept_of_requests_that_ended(num_requests: int) -> None:
    made = Watched(is_for_all=True, max_num_seqs=4)
    made.ask(*[make_spec(f"r{i}", (i, 1, 2), max_tokens=5) for i in range(num_requests)])
    assert not made.guessing._requests
    assert not made.guessing._submitted


def test_a_guess_ends_before_a_token_that_ends_the_answer() -> None:
    made = Watched(is_for_all=False)
    spec = make_spec("a", PROMPT, max_tokens=30, stop_token_ids=[SAID[9]])
    answer = made.ask(replace(spec, predicted_token_ids=SAID))["a"]
    assert answer.token_ids == SAID[:10]
    guessed = {
        token_id
        for step in made.runner.steps
        for row in step.scheduled
        for token_id in row.token_ids[len(row.token_ids) - row.num_draft_tokens :]
    }
    assert len(guessed) > 4
    assert guessed <= set(SAID[1:9])


def test_answers_that_are_stopped_and_computed_again() -> None:
    made = Watched(is_for_all=False, num_blocks=12, max_num_seqs=4)
    specs = []
    for index in range(4):
        prompt = (index, 1, 2, 3)
        said = expected_output(prompt, 7, 20, 1000)
        spec = make_spec(f"r{index}", prompt, max_tokens=20)
        specs.append(replace(spec, predicted_token_ids=said))
    answers = made.ask(*specs)
    assert sum(answer.num_preemptions for answer in answers.values())
    for spec in specs:
        answer = answers[spec.request_id]
        assert answer.token_ids == spec.predicted_token_ids
        assert answer.num_accepted_tokens > 5


def with_past(max_tokens: int = 10_000) -> Watched:
    made = Watched(is_for_all=True)
    made.guessing._past = PastAnswers(max_tokens)
    return made


def test_what_a_tenant_was_told_before_is_guessed() -> None:
    made = with_past()
    made.ask(make_spec("first", PROMPT, max_tokens=30, tenant="a"))
    answers = made.ask(make_spec("again", PROMPT, max_tokens=30, tenant="a"))
    assert answers["first"].num_draft_tokens == 0
    assert answers["again"].token_ids == answers["first"].token_ids == SAID
    assert answers["again"].num_accepted_tokens > 15


@pytest.mark.parametrize("other", [{"tenant": "b"}, {"tenant": "a", "cache_salt": "s"}])
def test_nothing_is_guessed_of_what_others_were_told(other: dict[str, str]) -> None:
    made = with_past()
    made.ask(make_spec("first", PROMPT, max_tokens=30, tenant="a"))
    answers = made.ask(make_spec("again", PROMPT, max_tokens=30, **other))
    assert answers["again"].token_ids == SAID
    assert answers["again"].num_draft_tokens == 0


def test_answers_that_were_cut_off_are_kept_as_far_as_they_came() -> None:
    made = with_past()
    made.add(make_spec("first", PROMPT, max_tokens=30))
    for _ in range(12):
        made.step()
    made.scheduler.abort("first")
    answers = made.ask(make_spec("again", PROMPT, max_tokens=30))
    assert answers["again"].token_ids == SAID
    assert 0 < answers["again"].num_accepted_tokens < 15


def test_a_prediction_is_no_past_answer() -> None:
    made = with_past()
    spec = make_spec("first", (9, 8), max_tokens=4, tenant="a")
    made.ask(replace(spec, predicted_token_ids=SAID))
    answers = made.ask(make_spec("again", PROMPT, max_tokens=30, tenant="a"))
    assert answers["again"].num_draft_tokens == 0


def test_a_step_that_computes_nothing_teaches_nothing() -> None:
    made = Watched(is_for_all=True)
    made.add(make_spec("leaves", PROMPT), make_spec("stays", (4, 5, 6)))
    made.step()
    made.scheduler.hold("everything")
    made.scheduler.abort("leaves")
    report = made.step()
    assert [row.finish_reason for row in report.progress] == ["abort"]
    made.scheduler.hold(None)
    assert made.run()["stays"].token_ids == expected_output((4, 5, 6), 7, 8, 1000)
