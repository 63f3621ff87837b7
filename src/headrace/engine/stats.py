"""EngineStats: what the output side knows -> metrics.

In: StepReport, answers and requests as they end. Out: calls on a MetricSink, with the rows of
core/telemetry.py. Keeps the time of each answer's newest token, and sums of guesses.
"""

from __future__ import annotations

from headrace.core import telemetry
from headrace.core.output import FinishReason
from headrace.core.step import StepReport, StepStats
from headrace.core.telemetry import MetricSink
from headrace.engine.open_request import OpenRequest

ENDS = ("died", "failed", "stalled")
"""Why an engine process is started again."""


class EngineStats:
    """Counts for one engine. Units: seconds, tokens."""

    def __init__(self, sink: MetricSink, num_blocks: int, block_size: int) -> None:
        self._sink = sink
        self._newest_token_at_s: dict[str, float] = {}
        self._num_drafts = self._num_accepted_tokens = 0
        labels = {"block_size": str(block_size), "num_gpu_blocks": str(num_blocks)}
        sink.set(telemetry.CACHE_CONFIG, 1, **labels)
        names = {"running_lora_adapters": "", "waiting_lora_adapters": ""}
        sink.set(telemetry.LORA_REQUESTS, 1, max_lora="0", **names)
        for reason in ENDS:  # there from the start, so that the first one is an increase
            sink.add(telemetry.ENGINE_RESTARTS, 0, reason=reason)

    def count_rejection(self) -> None:
        """Note a request that found the queue full."""
        self._sink.add(telemetry.ADMISSION_REJECTIONS)

    def count_restart(self, reason: str, num_resumed: int) -> None:
        """Note an engine process that was started again."""
        self._sink.add(telemetry.ENGINE_RESTARTS, 1, reason=reason)
        self._sink.add(telemetry.REQUESTS_RESUMED, num_resumed)

    def observe_end(self) -> None:
        """The engine has ended: nothing runs or waits in it, and nobody asks for its times."""
        self._observe_load(StepStats())
        self._newest_token_at_s.clear()

    def observe_step(self, report: StepReport) -> None:
        """Take in the gauges and counters of a step."""
        stats, sink = report.stats, self._sink
        self._observe_load(stats)
        sink.add(telemetry.PREFIX_CACHE_QUERIES, stats.num_new_prefix_queries)
        sink.add(telemetry.PREFIX_CACHE_HITS, stats.num_new_prefix_hits)
        sink.add(telemetry.NUM_PREEMPTIONS, stats.num_new_preemptions)
        sink.add(telemetry.SPEC_DECODE_DRAFTS, stats.num_new_drafts)
        sink.add(telemetry.SPEC_DECODE_DRAFT_TOKENS, stats.num_new_draft_tokens)
        sink.add(telemetry.SPEC_DECODE_ACCEPTED_TOKENS, stats.num_new_accepted_tokens)
        self._observe_drafts(stats)
        if stats.num_scheduled_tokens:
            sink.observe(telemetry.ITERATION_TOKENS, stats.num_scheduled_tokens)

    def _observe_load(self, stats: StepStats) -> None:
        sink = self._sink
        sink.set(telemetry.NUM_REQUESTS_RUNNING, stats.num_running)
        sink.set(telemetry.NUM_REQUESTS_WAITING, stats.num_waiting)
        deferred, reasons = stats.num_deferred, telemetry.NUM_REQUESTS_WAITING_BY_REASON
        sink.set(reasons, stats.num_waiting - deferred, reason="capacity")
        sink.set(reasons, deferred, reason="deferred")
        sink.set(telemetry.KV_CACHE_USAGE, stats.num_used_blocks / max(1, stats.num_blocks))

    def _observe_drafts(self, stats: StepStats) -> None:
        self._num_drafts += stats.num_new_drafts
        self._num_accepted_tokens += stats.num_new_accepted_tokens
        if stats.num_new_drafts:
            mean = 1 + self._num_accepted_tokens / self._num_drafts
            self._sink.set(telemetry.SPEC_DECODE_ACCEPTANCE_LENGTH, mean)
        if stats.draft_speed_up is not None:
            self._sink.set(telemetry.SPEC_DECODE_SPEED_UP, stats.draft_speed_up)

    def observe_tokens(
        self, request: OpenRequest, answer_id: str, num_tokens: int, now_s: float
    ) -> None:
        """Take in new tokens of an answer. The first one of the request ends its prompt."""
        if not num_tokens:
            return
        sink = self._sink
        sink.add(telemetry.GENERATION_TOKENS, num_tokens)
        before_s = self._newest_token_at_s.get(answer_id)
        if before_s is not None:
            for _ in range(num_tokens):
                sink.observe(telemetry.INTER_TOKEN_LATENCY, (now_s - before_s) / num_tokens)
        elif request.first_token_at_s is None:
            sink.observe(telemetry.TIME_TO_FIRST_TOKEN, now_s - request.arrived_at_s)
            sink.add(telemetry.PROMPT_TOKENS, len(request.prepared.prompt_token_ids))
        self._newest_token_at_s[answer_id] = now_s

    def forget(self, answer_id: str) -> None:
        """Drop what is kept of an answer."""
        self._newest_token_at_s.pop(answer_id, None)

    def observe_answer_end(self, finish_reason: FinishReason, num_tokens: int) -> None:
        """Take in an answer that ended."""
        self._sink.add(telemetry.REQUEST_SUCCESS, 1, finished_reason=finish_reason)
        self._sink.observe(telemetry.REQUEST_GENERATION_TOKENS, num_tokens)

    def observe_request_end(self, request: OpenRequest, now_s: float) -> None:
        """Take in a request all of whose answers ended."""
        sink, times, sampling = self._sink, request.times(now_s), request.prepared.sampling
        num_prompt_tokens = len(request.prepared.prompt_token_ids)
        sink.observe(telemetry.REQUEST_PROMPT_TOKENS, num_prompt_tokens)
        if request.first_token_at_s is None:  # a vector, which has no tokens
            sink.add(telemetry.PROMPT_TOKENS, num_prompt_tokens)
        sink.observe(telemetry.REQUEST_PARAMS_N, sampling.n)
        sink.observe(telemetry.REQUEST_PARAMS_MAX_TOKENS, sampling.max_tokens or 0)
        sink.observe(telemetry.REQUEST_NUM_PREEMPTIONS, times.num_preemptions)
        sink.observe(telemetry.E2E_REQUEST_LATENCY, now_s - request.arrived_at_s)
        sink.observe(telemetry.REQUEST_QUEUE_TIME, times.queue_s)
        sink.observe(telemetry.REQUEST_PREFILL_TIME, times.prefill_s)
        sink.observe(telemetry.REQUEST_DECODE_TIME, times.decode_s)
        sink.observe(telemetry.REQUEST_INFERENCE_TIME, times.prefill_s + times.decode_s)
