"""EncoderQueue: requests that wait for an encoder, in the order of `engine.policy`.

In: jobs as they come. Out: the jobs of a pass. The order is the scheduler's: batches after all
others, then the lower priority, then equal shares of tokens for tenants, then who came first.
Belongs to the thread that runs the passes.
"""

from __future__ import annotations

from bisect import insort

from headrace.core.engine_config import QueuePolicy
from headrace.engine.encoder_jobs import EncoderJob
from headrace.executor.encoder_runner import MAX_PASS_TOKENS
from headrace.sched.fair_share import VirtualTime

_Level = tuple[bool, int]  # is it of a batch, and its priority
_Entry = tuple[_Level, int, int, EncoderJob]  # with its beginning in virtual time, and its arrival


class EncoderQueue:
    """Jobs sorted by rank. What a job costs is known: its tokens."""

    def __init__(self, policy: QueuePolicy) -> None:
        self._policy = policy
        self._times: dict[_Level, VirtualTime] = {}
        self._new: list[EncoderJob] = []
        self._ranked: list[_Entry] = []
        self._num_arrivals = 0

    def __len__(self) -> int:
        return len(self._new) + len(self._ranked)

    def add(self, job: EncoderJob) -> None:
        """Have a job wait."""
        self._new.append(job)

    def take(self) -> list[EncoderJob]:
        """The jobs of about one pass, in their order, but none that nobody waits for any more."""
        self._drop_gone()
        for job in self._new:
            if not job.future.done():
                self._rank(job)
        self._new.clear()
        num_jobs = num_tokens = 0
        for entry in self._ranked:
            num_tokens += len(entry[-1].sequence.token_ids)
            if num_jobs and num_tokens > MAX_PASS_TOKENS:
                break
            num_jobs += 1
        taken = self._ranked[:num_jobs]
        del self._ranked[:num_jobs]
        for entry in taken:
            self._leave(entry, has_run=True)
        return [entry[-1] for entry in taken]

    def clear(self) -> list[EncoderJob]:
        """All that wait. They run no more."""
        jobs = [entry[-1] for entry in self._ranked] + self._new
        self._ranked.clear()
        self._new.clear()
        return jobs

    def _rank(self, job: EncoderJob) -> None:
        request = job.request
        level = (request.is_background, 0 if self._policy == "fcfs" else request.priority)
        start = 0
        if self._policy == "fair":
            time = self._times.setdefault(level, VirtualTime())
            start = time.enter(request.tenant, len(job.sequence.token_ids))
        insort(self._ranked, (level, start, self._num_arrivals, job))
        self._num_arrivals += 1

    def _drop_gone(self) -> None:
        """Before others are ranked: what a tenant takes back holds up nothing of its own."""
        left: list[_Entry] = []
        for entry in self._ranked:
            if entry[-1].future.done():
                self._leave(entry, has_run=False)
            else:
                left.append(entry)
        self._ranked = left

    def _leave(self, entry: _Entry, has_run: bool) -> None:
        if self._policy != "fair":
            return
        level, start, _, job = entry
        time = self._times[level]
        if has_run:
            time.reach(start)
        time.leave(job.request.tenant, start, 0 if has_run else -len(job.sequence.token_ids))
        # A priority that nobody has any more is forgotten; 0 is everybody's.
        if level[1] and time.is_idle:
            del self._times[level]
