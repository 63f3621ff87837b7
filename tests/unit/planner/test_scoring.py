"""Scores that models give, and the times of steps, over a scripted backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fakes.fake_backend import FakeBackend
from fakes.workload_files import answer_to, workload_tree, write_workload
from headrace.core.backend import ModelInfo
from headrace.planner.journal import Journal
from headrace.planner.profile import Profile
from headrace.planner.scoring import missing_scores, score_answers
from headrace.planner.step_times import BATCH_SIZES, measure_steps
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
    assert missing_scores(workload, journal) == [metric["model"]]
    before = Profile(workload, journal).find(call, tier)
    assert before is not None and before.rows == {}
    backend = FakeBackend(pieces=("A",))
    await score_answers(workload, journal, metric["model"], backend)
    num_asked = len(backend.requests)
    assert num_asked == 2 * len(call.samples)
    again = Journal(tmp_path / "p.jsonl")
    assert missing_scores(workload, again) == []
    await score_answers(workload, again, metric["model"], backend)
    assert len(backend.requests) == num_asked
    found = Profile(workload, again).find(call, tier)
    assert found is not None
    assert np.allclose(found.rows["summarize"][:, 0], score)


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
    await score_answers(workload, journal, "large", backend)
    found = Profile(workload, journal).find(call, tier)
    assert found is not None
    assert found.rows["summarize"][:, 0].tolist() == [0.0] + [1.0] * 7


async def test_steps_are_timed_for_each_batch_size() -> None:
    info = ModelInfo("tiny", 10_000, 0, "tiny")
    backend = FakeBackend(pieces=("word ",) * 24, info=info)
    times = await measure_steps(backend)
    assert times.batch_sizes == BATCH_SIZES
    assert len(times.decode_s) == len(BATCH_SIZES) and min(times.decode_s) >= 0
    assert times.prompt_token_s > 0
    # A warm-up, each batch, and two prompts of each of two lengths; none finds another's prefix.
    assert len(backend.requests) == 1 + sum(BATCH_SIZES) + 4
    assert len({request.cache_salt for request in backend.requests}) == len(backend.requests)
