"""Random arrivals, steps and aborts: after each, blocks are consistent and answers are right.

Steps are computed one by one, or planned while the last one is on its way.

The fake runner reads tokens back through the block tables, so sharing or giving away a block
wrongly shows as a wrong answer, whatever the order of events.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from fakes.fake_runner import expected_output
from fakes.guessing_runner import GuessingRunner
from fakes.scheduling import Bench, make_spec
from headrace.sched.admissions import Hold
from headrace.sched.request_state import RequestSpec

BLOCK_SIZE = 4
# Few beginnings and few lengths, so that prefixes are shared and end at block edges.
BEGINNINGS = tuple(tuple(range(start, start + 16)) for start in (0, 100))


class SchedulerMachine(RuleBasedStateMachine):
    requests = Bundle("requests")

    @initialize(
        num_blocks=st.integers(10, 24),
        max_num_seqs=st.integers(1, 5),
        extra_tokens=st.integers(0, 20),
        max_mixed_prompt_tokens=st.one_of(st.none(), st.integers(1, 20)),
        max_mixed_background_tokens=st.integers(0, 6),
        policy=st.sampled_from(("fair", "fcfs", "priority")),
        has_prefix_cache=st.booleans(),
        max_draft_tokens=st.sampled_from((0, 0, 3, 9)),
        is_ahead=st.booleans(),
    )
    def start(
        self,
        num_blocks: int,
        max_num_seqs: int,
        extra_tokens: int,
        max_mixed_prompt_tokens: int | None,
        max_mixed_background_tokens: int,
        policy: str,
        has_prefix_cache: bool,
        max_draft_tokens: int,
        is_ahead: bool,
    ) -> None:
        self.specs: dict[str, RequestSpec] = {}
        self.known: dict[str, tuple[int, ...]] = {}
        self.bench = Bench(
            num_blocks=num_blocks,
            block_size=BLOCK_SIZE,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_seqs + extra_tokens,
            max_mixed_prompt_tokens=max_mixed_prompt_tokens,
            max_mixed_background_tokens=max_mixed_background_tokens,
            policy=policy,
            has_prefix_cache=has_prefix_cache,
            drafts=None
            if is_ahead
            else lambda runner: GuessingRunner(runner, self.known, 1000, max_draft_tokens),
            is_ahead=is_ahead,
        )
        self.aborted: set[str] = set()

    @rule(
        target=requests,
        beginning=st.sampled_from(BEGINNINGS),
        num_shared=st.sampled_from((1, 3, 4, 5, 8, 12, 16)),
        own=st.lists(st.integers(200, 203), max_size=6),
        max_tokens=st.integers(1, 12),
        priority=st.integers(0, 2),
        tenant=st.sampled_from(("a", "a", "b")),
        prompt_logprobs=st.sampled_from((None, None, 0)),
        is_background=st.booleans(),
    )
    def add(
        self,
        beginning: tuple[int, ...],
        num_shared: int,
        own: list[int],
        max_tokens: int,
        priority: int,
        tenant: str,
        prompt_logprobs: int | None,
        is_background: bool,
    ) -> str:
        name = f"r{len(self.specs)}"
        prompt = (*beginning[:num_shared], *own)
        spec = make_spec(
            name,
            prompt,
            max_tokens,
            seed=len(self.specs) % 3,
            priority=priority,
            tenant=tenant,
            prompt_logprobs=prompt_logprobs,
            is_background=is_background,
        )
        self.specs[name] = spec
        self.known[name] = expected_output(prompt, spec.seed, max_tokens, 1000)
        self.bench.add(spec)
        return name

    @rule(name=requests)
    def abort(self, name: str) -> None:
        self.bench.scheduler.abort(name)
        self.aborted.add(name)

    @rule(what=st.sampled_from((None, None, "admissions", "everything")))
    def hold(self, what: Hold | None) -> None:
        self.bench.land()
        self.bench.scheduler.hold(what)

    @rule(reset_running=st.booleans())
    def reset_prefixes(self, reset_running: bool) -> None:
        self.bench.land()
        used = self.bench.kv_cache.usage
        assert self.bench.scheduler.reset_prefixes(reset_running) == (reset_running or not used)

    @rule(count=st.integers(1, 6))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.bench.step()

    @invariant()
    def consistent(self) -> None:
        if hasattr(self, "bench"):
            self.bench.scheduler.check_integrity()

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        self.bench.land()
        self.bench.scheduler.hold(None)
        answers = self.bench.run()
        assert set(answers) == set(self.specs)
        for name, spec in self.specs.items():
            answer = answers[name]
            wanted = expected_output(spec.prompt_token_ids, spec.seed, spec.max_tokens, 1000)
            assert answer.token_ids == wanted[: len(answer.token_ids)]
            if name not in self.aborted:
                assert answer.token_ids == wanted
                assert answer.finish_reason == "length"
            scored = [entry.token_id for entry in answer.prompt_logprobs]
            is_scored = spec.sampling.prompt_logprobs is not None
            assert scored == list(spec.prompt_token_ids[1 : 1 + len(scored)])
            if name not in self.aborted:
                assert len(scored) == (len(spec.prompt_token_ids) - 1 if is_scored else 0)


SchedulerMachine.TestCase.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None
)
TestSchedulerMachine = SchedulerMachine.TestCase
