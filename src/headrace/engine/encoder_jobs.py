"""Requests that wait for an encoder, and how they learn of its vectors.

In: jobs, results of passes. Out: futures that are done, records for operators.
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
from headrace.executor.encoder_runner import EncoderSequence

logger = logging.getLogger(__name__)

Result = tuple[float, ...]


@dataclass(eq=False, slots=True)
class EncoderJob:
    """A request whose vector somebody waits for. Units: seconds of the clock.

    `compute_s`: its share of the pass, by tokens.
    """

    request: GenerateRequest
    sequence: EncoderSequence
    pooling: Pooling
    future: asyncio.Future[Result]
    loop: asyncio.AbstractEventLoop
    arrived_at_s: float
    begun_at_s: float = 0.0
    ended_at_s: float = 0.0
    compute_s: float = 0.0


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
