"""Time of the scheduler alone: one step's schedule and update, by the number of running requests.

Every request decodes, with its own prompt of 500 tokens. First checks that a step gives each one
token. Thread time, so other processes disturb little. The last line is JSON. Units: microseconds.
"""

from __future__ import annotations

import json
import platform
import statistics
import time

from headrace.cache.kv_cache_manager import KVCacheManager
from headrace.core.clock import SystemClock
from headrace.core.request import SamplingParams
from headrace.core.step import ModelRunnerOutput, RowOutput, SchedulerOutput
from headrace.sched.request_state import RequestSpec
from headrace.sched.scheduler import Scheduler
from headrace.sched.token_budget import SchedulerLimits

NUM_PROMPT_TOKENS, NUM_STEPS = 500, 300


def make_scheduler(num_seqs: int) -> Scheduler:
    """A scheduler with room for all, and its requests queued."""
    limits = SchedulerLimits(
        max_num_batched_tokens=2048,
        max_num_seqs=num_seqs,
        max_waiting_requests=0,
        max_model_len=4096,
    )
    scheduler = Scheduler(limits, KVCacheManager(64 * num_seqs, 32), SystemClock())
    for index in range(num_seqs):
        start = 1000 * index
        scheduler.add(
            RequestSpec(
                request_id=f"r{index}",
                prompt_token_ids=tuple(range(start, start + NUM_PROMPT_TOKENS)),
                sampling=SamplingParams(),
                seed=0,
                max_tokens=NUM_STEPS + 100,
            )
        )
    return scheduler


def run(output: SchedulerOutput) -> ModelRunnerOutput:
    """Answer a step without a model."""
    rows = {
        row.request_id: RowOutput((1,)) if row.is_sampled else RowOutput()
        for row in output.scheduled
    }
    return ModelRunnerOutput(output.step_id, rows)


def measure(num_seqs: int) -> dict[str, float]:
    """Median time of schedule and update while all requests decode."""
    scheduler = make_scheduler(num_seqs)
    schedule_s, update_s = [], []
    while len(schedule_s) < NUM_STEPS:
        started_s = time.thread_time()
        output = scheduler.schedule()
        planned_s = time.thread_time()
        result = run(output)
        executed_s = time.thread_time()
        report = scheduler.update(output, result)
        ended_s = time.thread_time()
        if output.num_scheduled_tokens == len(output.scheduled) == num_seqs:
            assert len(report.progress) == num_seqs
            schedule_s.append(planned_s - started_s)
            update_s.append(ended_s - executed_s)
    both = sorted(a + b for a, b in zip(schedule_s, update_s, strict=True))
    return {
        "num_seqs": num_seqs,
        "schedule_us": round(1e6 * statistics.median(schedule_s), 1),
        "update_us": round(1e6 * statistics.median(update_s), 1),
        "step_us": round(1e6 * statistics.median(both), 1),
        "step_p99_us": round(1e6 * both[int(0.99 * len(both))], 1),
    }


def main() -> None:
    results = [measure(num_seqs) for num_seqs in (1, 16, 64, 256)]
    for result in results:
        print("  ".join(f"{name} {value:>7}" for name, value in result.items()))
    print(json.dumps({"cpu": platform.processor(), "results": results}))


if __name__ == "__main__":
    main()
