"""Requests that wait for an encoder: which of them a pass takes, and how they learn of its vectors.

In: jobs, results of passes. Out: the jobs of a pass, futures that are done, records for operators.
Knows nothing of models.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.core.activity import RequestActivity
from headrace.core.errors import HeadraceError
from headrace.core.request import GenerateRequest, Pooling
from headrace.executor.encoder_runner import MAX_PASS_TOKENS, EncoderSequence

logger = logging.getLogger(__name__)

Result = tuple[float, ...]


@dataclass(eq=False, slots=True)
class EncoderJob:
    """A request whose vector somebody waits for. Units: seconds of the clock."""

    request: GenerateRequest
    sequence: EncoderSequence
    pooling: Pooling
    future: asyncio.Future[Result]
    loop: asyncio.AbstractEventLoop
    arrived_at_s: float
    begun_at_s: float = 0.0
    ended_at_s: float = 0.0


def describe(job: EncoderJob, now_s: float, is_paused: bool) -> RequestActivity:
    """A request for operators."""
    request, is_running = job.request, job.begun_at_s > 0
    return RequestActivity(
        request_id=request.request_id,
        call_id=request.call_id,
        tenant=request.tenant,
        phase="running" if is_running else "waiting",
        waits_for=None if is_running else "pause" if is_paused else "step",
        age_s=now_s - job.arrived_at_s,
        priority=request.priority,
        is_background=request.is_background,
        has_reader=not job.future.done(),
        num_prompt_tokens=len(job.sequence.token_ids),
    )


def next_jobs(waiting: list[EncoderJob]) -> list[EncoderJob]:
    """The jobs of about one pass: the most urgent, of these those that came first, but none that
    nobody waits for any more. Mutates: waiting."""
    waiting[:] = sorted((job for job in waiting if not job.future.done()), key=_rank)
    num_jobs = num_tokens = 0
    for job in waiting:
        num_tokens += len(job.sequence.token_ids)
        if num_jobs and num_tokens > MAX_PASS_TOKENS:
            break
        num_jobs += 1
    jobs = waiting[:num_jobs]
    del waiting[:num_jobs]
    return jobs


def _rank(job: EncoderJob) -> tuple[bool, int]:
    return job.request.is_background, job.request.priority


def deliver(jobs: Sequence[EncoderJob], results: Sequence[Result | HeadraceError]) -> None:
    """Tell who waits, with one call for each event loop. A loop that is gone waits for nothing."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[EncoderJob, Result | HeadraceError]]] = {}
    for job, result in zip(jobs, results, strict=True):
        by_loop.setdefault(job.loop, []).append((job, result))
    for loop, pairs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, pairs)
        except RuntimeError:
            logger.debug("an event loop ended before its vectors")


def _resolve(pairs: Sequence[tuple[EncoderJob, Result | HeadraceError]]) -> None:
    for job, result in pairs:
        if job.future.done():
            continue
        if isinstance(result, HeadraceError):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
