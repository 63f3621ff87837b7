"""An engine that plans a step ahead of its device answers as one that waits for each step.

Random arrivals, aborts, stop tokens, lengths and too few blocks; some requests are not plain. The
device is as late as it can be, and what it computes is read back through the block tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.scheduling import Answer, Bench, make_spec
from headrace.sched.request_state import RequestSpec

VOCAB_SIZE = 6
"""So few that stop tokens come up often."""


@dataclass(frozen=True)
class Arrival:
    """A request, the step before which it comes, and the steps after which it is aborted."""

    at: int
    num_shared: int
    own: tuple[int, ...]
    max_tokens: int
    min_tokens: int
    stop_token_ids: tuple[int, ...]
    eos_token_ids: tuple[int, ...]
    logprobs: int | None
    is_background: bool
    seed: int
    aborted_after: int | None

    def spec(self, name: str) -> RequestSpec:
        return make_spec(
            name,
            (*range(self.num_shared), *self.own),
            self.max_tokens,
            min_tokens=min(self.min_tokens, self.max_tokens),
            stop_token_ids=self.stop_token_ids,
            eos_token_ids=self.eos_token_ids,
            logprobs=self.logprobs,
            is_background=self.is_background,
            seed=self.seed,
        )


ARRIVALS = st.builds(
    Arrival,
    at=st.integers(0, 25),
    num_shared=st.sampled_from((1, 4, 5, 8, 12)),
    own=st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=5).map(tuple),
    max_tokens=st.integers(1, 16),
    min_tokens=st.sampled_from((0, 0, 0, 2)),
    stop_token_ids=st.sampled_from(((), (), (2,), (3, 4))),
    eos_token_ids=st.sampled_from(((), (0,))),
    logprobs=st.sampled_from((None, None, None, None, None, 0)),
    is_background=st.sampled_from((False, False, True)),
    seed=st.integers(0, 3),
    aborted_after=st.one_of(st.none(), st.none(), st.integers(0, 12)),
)


def run(bench: Bench, arrivals: list[Arrival]) -> dict[str, Answer]:
    waiting = {f"r{index}": arrival for index, arrival in enumerate(arrivals)}
    leaving: dict[str, int] = {}
    step = 0
    while waiting or leaving or bench.engine.has_work:
        for name, arrival in list(waiting.items()):
            if arrival.at <= step:
                bench.add(waiting.pop(name).spec(name))
                if arrival.aborted_after is not None:
                    leaving[name] = step + arrival.aborted_after
        for name, last in list(leaving.items()):
            if last <= step:
                bench.scheduler.abort(name)
                del leaving[name]
        bench.step()
        step += 1
        assert step < 10_000, "no progress"
    return bench.run()


@given(
    arrivals=st.lists(ARRIVALS, min_size=1, max_size=8),
    num_blocks=st.integers(8, 20),
    max_num_seqs=st.integers(1, 5),
    extra_tokens=st.integers(0, 12),
    policy=st.sampled_from(("fair", "fcfs")),
    has_prefix_cache=st.booleans(),
)
@settings(max_examples=150)
def test_token_streams_are_equal(
    arrivals: list[Arrival],
    num_blocks: int,
    max_num_seqs: int,
    extra_tokens: int,
    policy: str,
    has_prefix_cache: bool,
) -> None:
    def bench(is_ahead: bool) -> Bench:
        return Bench(
            num_blocks=num_blocks,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_seqs + extra_tokens,
            policy=policy,
            has_prefix_cache=has_prefix_cache,
            vocab_size=VOCAB_SIZE,
            is_ahead=is_ahead,
        )

    expected, found = run(bench(False), arrivals), run(bench(True), arrivals)
    assert set(found) == set(expected)
    for index, arrival in enumerate(arrivals):
        mine, theirs = found[f"r{index}"], expected[f"r{index}"]
        if arrival.aborted_after is None:
            assert mine.token_ids == theirs.token_ids
            assert mine.logprobs == theirs.logprobs
            assert (mine.finish_reason, mine.stop_token_id) == (
                theirs.finish_reason,
                theirs.stop_token_id,
            )
        else:  # one may be a step further when the abort comes
            length = min(len(mine.token_ids), len(theirs.token_ids))
            assert mine.token_ids[:length] == theirs.token_ids[:length]


def test_most_steps_are_planned_ahead() -> None:
    """So that the test above is one of running ahead."""
    arrivals = [Arrival(2 * i, 4, (i,), 12, 0, (2,), (), None, False, i, None) for i in range(4)]
    bench = Bench(vocab_size=VOCAB_SIZE, is_ahead=True)
    run(bench, arrivals)
    assert bench.device is not None
    assert bench.device.num_ahead > 0.7 * len(bench.runner.steps)
    assert bench.device.num_unknown > 10


def test_beginnings_of_blocks_are_copied_ahead() -> None:
    """So that the first test is one of copies too."""
    arrivals = [Arrival(i, 6, (i % 3,), 12, 0, (), (), None, False, i, None) for i in range(6)]
    bench = Bench(vocab_size=VOCAB_SIZE, is_ahead=True)
    run(bench, arrivals)
    assert sum(len(step.block_copies) for step in bench.runner.steps) >= 4
