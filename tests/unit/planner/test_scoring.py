"""Scores that models give, and the times of steps, over a scripted backend."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fakes.fake_backend import FakeBackend
from fakes.one_seat import OneSeat
from fakes.workload_files import answer_to, workload_tree, write_workload
from headrace.core.backend import ModelInfo
from headrace.core.request import GenerateRequest
from headrace.core.usage import Usage
from headrace.planner.agreement import agreements
from headrace.planner.journal import Journal
from headrace.planner.judge import Comparison, Scorer, compare
from headrace.planner.plan_text import agreement_rows, agreement_sentences
from headrace.planner.profile import Profile
from headrace.planner.scoring import missing_scores, score_answers
from headrace.planner.step_times import (
    BATCH_SIZES,
    RUNS,
    StepRun,
    TimedAnswer,
    joining,
    measure_steps,
    shared_step_s,
    timed_answer,
)
from headrace.planner.workload import Tier
from headrace.planner.workload_file import read_workload


@pytest.mark.parametrize(
    ("metric", "score"),
    [
        # The same letter in both orders contradicts itself: a tie.
        ({"kind": "judge", "model": "large", "reference": "summary"}, 0.5),
        # The scripted encoder has one vector for all texts.
        ({"kind": "similarity", "model": "some-encoder", "reference": "summary"}, 1.0),
    ],
)
async def test_a_model_scores_each_text_once(
    tmp_path: Path, metric: dict[str, str], score: float
) -> None:
    tree = workload_tree()
    tree["tasks"]["summarize"]["metric"] = metric
    workload = read_workload(write_workload(tmp_path, tree))
    journal = Journal(tmp_path / "p.jsonl")
    call, tier = workload.call("summarize"), workload.tiers["large"]
    for sample in call.samples:
        journal.add(answer_to(call, tier, sample, f"About {sample.id}"))
    assert missing_scores(workload, journal) == {metric["model"]: len(call.samples)}
    before = Profile(workload, journal).find(call, tier)
    assert before is not None and before.rows == {}
    backend = FakeBackend(pieces=("A",))
    await score_answers(workload, journal, metric["model"], Scorer(backend))
    num_asked = len(backend.requests)
    assert num_asked == 2 * len(call.samples)
    again = Journal(tmp_path / "p.jsonl")
    assert missing_scores(workload, again) == {}
    await score_answers(workload, again, metric["model"], Scorer(backend))
    assert len(backend.requests) == num_asked
    found = Profile(workload, again).find(call, tier)
    assert found is not None
    assert np.allclose(found.rows["summarize"][:, 0], score)


async def test_shorter_answers_are_scored_too(tmp_path: Path) -> None:
    """What a smaller max_tokens leaves of an answer is another text; one that fits is the same."""
    tree = workload_tree()
    tree["tasks"]["summarize"] |= {
        "metric": {"kind": "similarity", "model": "some-encoder", "reference": "summary"},
        "shorter": [4],
    }
    workload = read_workload(write_workload(tmp_path, tree))
    journal = Journal(tmp_path / "p.jsonl")
    call, tier = workload.call("summarize"), workload.tiers["large"]
    for number, sample in enumerate(call.samples):
        text, count = f"About {sample.id} and so", 4 + number % 2 * 4
        marks = tuple((place + 1, 2 * place + 2) for place in range(count))
        answer = answer_to(call, tier, sample, text)
        journal.add(replace(answer, marks=marks, usage=Usage(input_tokens=9, output_tokens=count)))
    assert missing_scores(workload, journal) == {"some-encoder": 12}
    await score_answers(workload, journal, "some-encoder", Scorer(FakeBackend()))
    found = Profile(workload, journal).find(call, tier, 4)
    assert found is not None and len(found.rows["summarize"]) == 8


async def test_a_judge_that_prefers_the_answer_says_a_and_then_b(tmp_path: Path) -> None:
    tree = workload_tree()
    metric = {"kind": "judge", "model": "large", "reference": "summary"}
    tree["tasks"]["summarize"]["metric"] = metric
    workload = read_workload(write_workload(tmp_path, tree))
    journal = Journal(tmp_path / "p.jsonl")
    call, tier = workload.call("summarize"), workload.tiers["large"]
    for index, sample in enumerate(call.samples):
        # Empty answers are lost without being asked.
        journal.add(answer_to(call, tier, sample, f"Mine {sample.id}" if index else ""))
    backend = FakeBackend()

    async def choose(request: object) -> None:
        content = backend.requests[-1].messages[0].content or ""  # type: ignore[index]
        backend.pieces = ("A" if "[Answer A]\nMine" in content else "B",)

    backend.admission = choose
    await score_answers(workload, journal, "large", Scorer(backend))
    found = Profile(workload, journal).find(call, tier)
    assert found is not None
    assert found.rows["summarize"][:, 0].tolist() == [0.0] + [1.0] * 7


async def test_steps_are_timed_for_each_batch_size() -> None:
    info = ModelInfo("tiny", 10_000, 0, "tiny")

    async def take_turns(request: object, step: int) -> None:
        await asyncio.sleep(0)

    backend = FakeBackend(pieces=("word ",) * 24, info=info, before_step=take_turns)
    times = await measure_steps(backend, rest_s=0.0)
    assert times.batch_sizes == BATCH_SIZES
    assert len(times.decode_s) == len(BATCH_SIZES) and min(times.decode_s) >= 0
    assert times.prompt_token_s > 0
    # A warm-up, each batch, and three prompts of each of two lengths; none finds another's prefix.
    assert len(backend.requests) == 1 + sum(BATCH_SIZES) + 6
    assert len({request.cache_salt for request in backend.requests}) == len(backend.requests)


async def test_a_model_without_a_chat_template_is_timed_too() -> None:
    info = ModelInfo("tiny", 10_000, 0, "tiny", has_chat_template=False)
    backend = FakeBackend(pieces=("word ",) * 4, info=info)
    await timed_answer(backend, "Say.")
    assert backend.requests[0].messages is None
    assert str(backend.requests[0].prompt).endswith(" Say.")


def test_a_shared_step_is_one_that_all_answers_are_in() -> None:
    """The first waits in its second step for the other's prompt: that is no shared step."""
    first = TimedAnswer(0.0, 10, ((1.0, 1), (3.0, 2), (3.1, 3), (3.2, 4), (3.4, 5)))
    second = TimedAnswer(0.0, 10, ((3.0, 1), (3.1, 2), (3.2, 3)))
    assert shared_step_s([first, second]) == pytest.approx(0.1)
    assert shared_step_s([first]) == pytest.approx(0.6)


def test_what_answers_wait_for_while_others_join_is_counted_in_rows() -> None:
    """Two steps: 20 tokens of the second prompt, and two of the first answer."""
    first = TimedAnswer(0.0, 10, ((1.0, 1), (1.5, 2), (2.0, 3), (2.1, 4)))
    second = TimedAnswer(0.0, 20, ((2.0, 1), (2.1, 2)))
    assert joining([first, second]) == (1.0, 2, 22)
    assert joining([second]) == (0.0, 0, 0)


async def test_steps_are_read_from_the_middle_of_their_runs() -> None:
    """One of each three runs met a neighbour; contexts made less than the spread."""
    joined = {2: (0.9, 4, 80), 4: (1.1, 6, 120)}
    runs = [
        StepRun(size, 20, 0.02 if size == 1 else None if size > 4 else 0.03, 0.1, 50, 60.0,
                *joined.get(size, (0.0, 0, 0)))
        for size in BATCH_SIZES
    ]  # fmt: skip
    paces = {20: (0.022, 0.021, 0.040), 400: (0.023, 0.09, 0.024)}
    waits = {20: (0.1, 0.5, 0.1), 400: (0.9, 0.5, 0.5)}
    tokens = {20: 50, 400: 450}
    for turn in range(3):
        for words in (20, 400):
            pace, wait = paces[words][turn], waits[words][turn]
            runs.append(StepRun(1, words, pace, wait, tokens[words], tokens[words] + 10.0))
    times = await measure_steps(FakeBackend(), runs)
    assert times.batch_sizes == (1, 2, 4)
    assert times.decode_s == pytest.approx((0.0215, 0.03, 0.03))
    assert times.prompt_token_s == pytest.approx(0.001)
    assert times.prompt_base_s == pytest.approx(0.05)
    assert times.context_token_s == 0.0
    # Ten steps in two seconds, of which each had 50 ms whatever was in it.
    assert times.mixed_token_s == pytest.approx((2.0 - 10 * 0.05) / 200)


async def test_a_backend_of_one_seat_has_its_steps_timed_for_one(tmp_path: Path) -> None:
    info = ModelInfo("tiny", 10_000, 0, "tiny")
    times = await measure_steps(OneSeat(pieces=("word ",) * 8, info=info), rest_s=0.0)
    assert times.batch_sizes == (1,)


@pytest.mark.parametrize(
    ("said", "score"),
    [
        (("A", "B"), 1.0),
        (("B", "A"), 0.0),
        (("A", "A"), 0.5),
        ((" B.", "A because"), 0.0),
        # What is no verdict loses nothing.
        (("Both are fine", "As a model"), 0.5),
        (("Both are fine", "B"), 0.5),
    ],
)
async def test_two_orders_make_a_verdict(said: tuple[str, str], score: float) -> None:
    backend = FakeBackend()

    async def answer(request: GenerateRequest) -> None:
        backend.pieces = (said[len(backend.requests) - 1],)

    backend.admission = answer
    far = Tier(name="far", model="m", url="http://far/v1", refuses=("structured_outputs",))
    pair = Comparison(("one", "two"), "Say a number.", "Which is larger?")
    assert await compare(Scorer(backend, far), pair) == score
    first, second = backend.requests
    assert "[Answer A]\none" in (first.messages or ())[0].content  # type: ignore[operator]
    assert "[Answer A]\ntwo" in (second.messages or ())[0].content  # type: ignore[operator]
    # A server elsewhere gets nothing that it does not know.
    assert first.sampling.structured_outputs is None and first.add_special_tokens


async def test_a_judge_is_set_beside_the_metric(tmp_path: Path) -> None:
    """Eight pairs: two are the same text, one contradicts itself, four agree and one does not."""
    tree = workload_tree()
    tree["tasks"]["summarize"]["judge"] = "large"
    workload = read_workload(write_workload(tmp_path, tree))
    journal, call = Journal(tmp_path / "p.jsonl"), workload.call("summarize")
    for index, sample in enumerate(call.samples):
        good, bad = f"{sample.fields['summary']} {index}", f"Nothing {index}"
        large, small = (good, bad) if index < 7 else (bad, good)
        journal.add(answer_to(call, workload.tiers["large"], sample, large))
        text = large if index < 2 else small
        journal.add(answer_to(call, workload.tiers["small"], sample, text))
    assert missing_scores(workload, journal) == {"large": 6}
    assert list(agreements(Profile(workload, journal))) == []
    backend = FakeBackend()

    async def choose(request: GenerateRequest) -> None:
        content = (request.messages or ())[0].content or ""
        first, _ = content.split("[Answer A]\n")[1].split("\n\n[Answer B]\n")
        is_known = first.startswith("About")
        wants_nothing = "Nothing 6" in content
        backend.pieces = ("A" if is_known != wants_nothing or "Nothing 5" in content else "B",)

    backend.admission = choose
    await score_answers(workload, journal, "large", Scorer(backend, workload.tiers["large"]))
    (found,) = agreements(Profile(workload, Journal(tmp_path / "p.jsonl")))
    assert (found.baseline, found.other, found.judge) == ("large", "small", "large")
    assert (found.steady.count, found.steady.mean) == (6, pytest.approx(5 / 6))
    assert found.num_told_apart == 5
    assert found.agrees is not None and found.agrees.mean == pytest.approx(4 / 5)
    assert found.agrees.low < 0.5 and found.preference.mean == pytest.approx(2.5 / 6)
    assert next(agreement_rows([found]))[3] == "6"
    assert "not shown to be better than a coin" in next(agreement_sentences([found]))
    # Another question, another model: nothing of it holds any more.
    tree["tiers"]["large"]["model"] = "another-model"
    changed = read_workload(write_workload(tmp_path, tree))
    assert list(agreements(Profile(changed, journal))) == []


async def test_timing_goes_on_after_the_runs_that_are_known() -> None:
    info = ModelInfo("tiny", 10_000, 0, "tiny")
    runs: list[StepRun] = []

    async def take_turns(request: object, step: int) -> None:
        await asyncio.sleep(0)

    backend = FakeBackend(pieces=("word ",) * 24, info=info, before_step=take_turns)
    whole = await measure_steps(backend, (), runs.append, rest_s=0.0)
    assert [(run.num_answers, run.num_words) for run in runs] == list(RUNS)
    assert await measure_steps(FakeBackend(info=info), runs) == whole
    again, num_asked = list[StepRun](), len(backend.requests)
    await measure_steps(backend, runs[:8], again.append, rest_s=0.0)
    assert len(again) == 3 and len(backend.requests) == num_asked + 1 + 3
    # Runs of another plan are none of these.
    await measure_steps(backend, runs[1:3], again.append, rest_s=0.0)
    assert len(again) == 3 + len(RUNS)
