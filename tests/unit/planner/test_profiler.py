"""Profiling: what is asked, written, gone on with; and what a journal makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.fake_backend import FakeBackend
from fakes.workload_files import answer_to, data_lines, workload_tree, write_workload
from headrace.core.errors import BackendError, CapacityError, ConfigError, InvalidParameter
from headrace.core.message import Message
from headrace.core.request import GenerateRequest
from headrace.planner.journal import Answer, Journal, request_key
from headrace.planner.profile import Profile, cut_answer
from headrace.planner.profiler import MAX_FAILURES_IN_A_ROW, Profiler, chosen_samples, missing
from headrace.planner.step_times import StepRun, StepTimes
from headrace.planner.workload import Workload
from headrace.planner.workload_file import read_workload


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    return read_workload(write_workload(tmp_path))


async def ask_all(
    workload: Workload, journal: Journal, tier: str, backend: FakeBackend, limit: int | None = None
) -> list[Answer]:
    heard: list[Answer] = []
    chosen = workload.tiers[tier]
    asks = missing(workload.calls, chosen, journal, limit)
    await Profiler(chosen, backend, journal, heard.append, concurrency=2).run(asks)
    return heard


async def test_every_sample_is_asked_once_and_measured(tmp_path: Path, workload: Workload) -> None:
    journal = Journal(tmp_path / "p.jsonl")
    backend = FakeBackend(pieces=("About ", "sport", "."))
    heard = await ask_all(workload, journal, "large", backend)
    assert len(heard) == 16
    assert len({request.cache_salt for request in backend.requests}) == 18  # and the warm-ups
    label = next(answer for answer in heard if answer.call == "label")
    assert label.text == "About sport."
    assert (label.prefill_s, label.decode_s) == (0.002, 0.003)
    assert label.marks == ((1, 6), (2, 11), (3, 12))
    assert 0 < label.ttft_s <= label.e2e_s
    assert await ask_all(workload, journal, "large", backend) == []


async def test_no_sample_is_the_first_of_its_form(tmp_path: Path, workload: Workload) -> None:
    """What reads the vocabulary, or compiles a form elsewhere, is apart from what is measured."""
    backend = FakeBackend(pieces=("sport",))
    await ask_all(workload, Journal(tmp_path / "p.jsonl"), "large", backend)
    firsts = {request.sampling.structured_outputs: request for request in backend.requests[::-1]}
    assert {form and form.choice for form in firsts} == {None, ("sport", "money")}
    for request in firsts.values():
        assert request.messages == (Message("user", "Hello"),)


async def test_a_form_that_is_refused_fails_its_own_samples(
    tmp_path: Path, workload: Workload
) -> None:
    async def refuse(request: GenerateRequest) -> None:
        if request.sampling.structured_outputs is not None:
            raise InvalidParameter("structured_outputs", "choice", "nothing here")

    journal = Journal(tmp_path / "p.jsonl")
    heard = await ask_all(workload, journal, "large", FakeBackend(admission=refuse), limit=2)
    assert {(answer.call, answer.error is None) for answer in heard} == {
        ("label", False),
        ("summarize", True),
    }


async def test_a_run_goes_on_where_it_was_cut(tmp_path: Path, workload: Workload) -> None:
    path = tmp_path / "p.jsonl"
    backend = FakeBackend()
    await ask_all(workload, Journal(path), "large", backend, limit=2)
    raw = path.read_bytes()
    path.write_bytes(raw[:-30])  # killed while it wrote
    again = Journal(path)
    assert len(missing(workload.calls, workload.tiers["large"], again, 2)) == 1
    heard = await ask_all(workload, again, "large", backend, limit=3)
    assert len(heard) == 3
    third = Journal(path)
    assert missing(workload.calls, workload.tiers["large"], third, 3) == ()
    # A larger limit keeps the smaller one's samples.
    call = workload.calls[0]
    assert chosen_samples(call, 3)[:2] == chosen_samples(call, 2)


def write_repeats(folder: Path) -> Workload:
    """Two texts, four times each; labels are by line."""
    path = write_workload(folder)
    lines = [line | {"text": f"Text {number % 2}."} for number, line in enumerate(data_lines())]
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_workload(path)


async def test_equal_prompts_are_measured_each(tmp_path: Path) -> None:
    """Also by a run that was cut off and went on: each has times of its own, and all count."""
    workload, path = write_repeats(tmp_path), tmp_path / "p.jsonl"
    backend, call, tier = FakeBackend(), workload.calls[0], workload.tiers["large"]
    assert len(await ask_all(workload, Journal(path), "large", backend, limit=5)) == 10
    again = Journal(path)
    assert len(missing(workload.calls, tier, again, None)) == 6
    await ask_all(workload, again, "large", backend)
    whole = Journal(path)
    assert missing(workload.calls, tier, whole, None) == ()
    written = [json.loads(line) for line in path.read_text().splitlines()]
    times = {entry["e2e_s"] for entry in written if entry.get("call") == call.name}
    found = Profile(workload, whole).find(call, tier)
    assert found is not None
    assert len(times) == 8 and set(found.e2e_s) == times
    assert [call.first_alike(name) for name in found.samples] == ["a0", "a1"] * 4


async def test_what_two_tasks_ask_alike_is_asked_and_computed_once(tmp_path: Path) -> None:
    tree = workload_tree()
    tree["tasks"]["again"] = tree["tasks"]["summarize"]
    workload, journal = read_workload(write_workload(tmp_path, tree)), Journal(tmp_path / "p.jsonl")
    backend, tier = FakeBackend(), workload.tiers["large"]
    assert len(await ask_all(workload, journal, "large", backend)) == 16
    for name in ("summarize", "again"):
        found = Profile(workload, journal).find(workload.call(name), tier)
        assert found is not None and len(found.samples) == 8
    work = Profile(workload, journal).work(tier)
    assert work is not None and work.num_calls == 16


def test_a_run_that_is_cut_off_has_as_much_of_each_call(tmp_path: Path, workload: Workload) -> None:
    journal = Journal(tmp_path / "p.jsonl")
    asks = missing(workload.calls, workload.tiers["large"], journal, None)
    assert len(asks) == 16
    for first, second in zip(asks[::2], asks[1::2], strict=True):
        assert (first.call.name, second.call.name) == ("label", "summarize")
        assert first.sample.id == second.sample.id


async def test_a_changed_prompt_is_asked_anew(tmp_path: Path, workload: Workload) -> None:
    journal = Journal(tmp_path / "p.jsonl")
    await ask_all(workload, journal, "large", FakeBackend())
    tree = workload_tree()
    tree["tasks"]["label"]["prompt"] = "Another prompt: {text}"
    changed = read_workload(write_workload(tmp_path, tree))
    left = missing(changed.calls, changed.tiers["large"], journal, None)
    assert {ask.call.name for ask in left} == {"label"}


async def test_failures_are_written_asked_again_and_end_a_dead_tier(
    tmp_path: Path, workload: Workload
) -> None:
    journal = Journal(tmp_path / "p.jsonl")
    num_asked = 0

    async def fail(request: GenerateRequest) -> None:
        nonlocal num_asked
        num_asked += 1
        if num_asked == 3:  # after two warm-ups
            raise CapacityError("full")

    heard = await ask_all(workload, journal, "large", FakeBackend(admission=fail))
    assert [answer.error for answer in heard if answer.error] == ["CapacityError: full"]
    assert len(missing(workload.calls, workload.tiers["large"], journal, None)) == 1

    async def die(request: GenerateRequest) -> None:
        if request.sampling.max_tokens in (8,) or request.sampling.structured_outputs:
            raise BackendError("gone")

    with pytest.raises(BackendError, match=f"failed {MAX_FAILURES_IN_A_ROW} requests in a row"):
        await ask_all(workload, journal, "small", FakeBackend(admission=die))


async def test_a_failed_answer_scores_nothing(tmp_path: Path, workload: Workload) -> None:
    journal = Journal(tmp_path / "p.jsonl")

    async def fail(request: GenerateRequest) -> None:
        content = request.messages[-1].content or "" if request.messages else ""
        if "number 3" in content:
            raise CapacityError("full")

    await ask_all(workload, journal, "large", FakeBackend(pieces=("sport",), admission=fail))
    profile = Profile(workload, journal)
    call, tier = workload.call("label"), workload.tiers["large"]
    found = profile.find(call, tier)
    assert found is not None
    assert (profile.num_failed(call, tier), len(found.samples), len(found.usages)) == (1, 8, 7)
    assert found.rows["label"].sum(axis=0).tolist() == [4, 7, 4, 0, 0, 4]


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "x"}\n')
    with pytest.raises(ConfigError, match="--profile"):
        Journal(path)


@pytest.mark.parametrize(
    ("text", "place", "wrong"),
    [
        ("notes\n", "p.jsonl:1", "line 1: it is no JSON"),
        ("[1]\n", "p.jsonl:1", "line 1: it is no object with headrace_profile"),
        ('{"headrace_profile": 7}\n', "p.jsonl:1", "its version is 7, and 1 is read here"),
        ('{"prompt": "x"}\n', "p.jsonl:1", "it has no 'headrace_profile'"),
        ("no end", "p.jsonl:1", "it has no whole line"),
        ('{"headrace_profile": 1}\n{"kind": "facts"}\n', "p.jsonl:2", "it has no 'tier'"),
        ('{"headrace_profile": 1}\n7\n', "p.jsonl:2", "line 2: it is no object"),
    ],
)
def test_a_bad_file_says_what_is_wrong_with_it(
    tmp_path: Path, text: str, place: str, wrong: str
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Journal(path)
    assert place in caught.value.message and wrong in caught.value.message
    with pytest.raises(ConfigError, match="Is a directory"):
        Journal(tmp_path)


async def test_a_smaller_limit_is_the_beginning_of_the_longer_answer(
    tmp_path: Path, workload: Workload
) -> None:
    journal = Journal(tmp_path / "p.jsonl")
    pieces = tuple(f"word{number} " for number in range(6))
    heard = await ask_all(workload, journal, "large", FakeBackend(pieces=pieces))
    whole = next(answer for answer in heard if answer.call == "summarize")
    cut = cut_answer(whole, 2)
    assert cut is not None
    assert (cut.text, cut.usage.output_tokens, cut.finish_reason) == (
        "word0 word1 ",
        2,
        "length",
    )
    asked = await ask_all(
        workload, Journal(tmp_path / "q.jsonl"), "large", FakeBackend(pieces=pieces[:2])
    )
    assert next(a for a in asked if a.call == "summarize").text == cut.text
    assert whole.ttft_s <= cut.e2e_s < whole.e2e_s
    assert cut_answer(whole, 6) is whole
    # A part is never larger than its whole, or it would be paid twice.
    thought = replace(whole, usage=replace(whole.usage, reasoning_tokens=4))
    shorter = cut_answer(thought, 2)
    assert shorter is not None
    assert shorter.usage.reasoning_tokens == 2


def test_any_text_is_read_back_as_it_was_written(tmp_path: Path, workload: Workload) -> None:
    """Separators that only some readers take for the end of a line, and half a surrogate pair."""
    call, tier = workload.calls[0], workload.tiers["large"]
    text = "a\u2028b\u0085c\x1c\ud83d"
    Journal(tmp_path / "p.jsonl").add(answer_to(call, tier, call.samples[0], text))
    found = Journal(tmp_path / "p.jsonl").find(call, tier, call.samples[0])
    assert found is not None and found.text == text


@pytest.mark.parametrize("text", ["notes without an end", '{"prompt": "x"}\n{"pro', "[1]\n"])
def test_a_foreign_file_stays_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match="--profile"):
        Journal(path)
    assert path.read_text() == text


def test_reading_leaves_a_line_that_is_being_written(tmp_path: Path, workload: Workload) -> None:
    path, call, tier = tmp_path / "p.jsonl", workload.calls[0], workload.tiers["large"]
    Journal(path).add(answer_to(call, tier, call.samples[0], "one"))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind": "answ')
    journal = Journal(path)
    assert path.read_bytes() == whole + b'{"kind": "answ'
    journal.add(answer_to(call, tier, call.samples[1], "two"))
    again = Journal(path)
    assert all(again.find(call, tier, sample) for sample in call.samples[:2])


def test_a_line_that_lacks_something_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"headrace_profile": 1}\n{"kind": "answer", "usage": {}}\n')
    with pytest.raises(ConfigError, match=r"p\.jsonl:2"):
        Journal(path)


def test_times_and_answers_belong_to_what_was_asked(tmp_path: Path, workload: Workload) -> None:
    """A tier with another model has steps of its own, and one that refuses forms other answers."""
    journal, tier = Journal(tmp_path / "p.jsonl"), workload.tiers["large"]
    journal.add_step_times(tier, StepTimes((1,), (0.1,), 0.01, 0.1))
    journal.add_facts(tier, {"cpu": "x"})
    again = Journal(tmp_path / "p.jsonl")
    assert again.step_times(tier) == StepTimes((1,), (0.1,), 0.01, 0.1)
    other = replace(tier, model="another")
    assert again.step_times(other) is None and again.facts(other) == {}
    call = workload.call("label")
    held = request_key(call, tier, call.samples[0])
    assert (
        request_key(call, replace(tier, refuses=("structured_outputs",)), call.samples[0]) != held
    )


def test_runs_that_were_cut_off_are_kept_for_the_same_machine(
    tmp_path: Path, workload: Workload
) -> None:
    path, tier = tmp_path / "p.jsonl", workload.tiers["large"]
    runs = [StepRun(1, 20, 0.1, 0.2, 25, 41.0), StepRun(2, 20, None, 0.2, 25, 41.0)]
    journal = Journal(path)
    journal.add_facts(tier, {"cpu": "x"})
    for run in runs:
        journal.add_step_run(tier, run)
    again = Journal(path)
    again.add_facts(tier, {"cpu": "x"})
    assert again.step_runs(tier) == runs
    assert again.step_runs(replace(tier, model="another")) == ()
    again.add_facts(tier, {"cpu": "y"})
    assert again.step_runs(tier) == Journal(path).step_runs(tier) == ()
