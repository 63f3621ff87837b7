"""EncoderStats: what an encoder's engine knows -> metrics.

In: requests that wait, passes and answers as they happen, from any thread. Out: calls on a
MetricSink, with the rows of core/telemetry.py that mean something without tokens of an answer.
"""

from __future__ import annotations

from headrace.core import telemetry
from headrace.core.telemetry import MetricSink


class EncoderStats:
    """Counts for one encoder. Units: seconds, tokens."""

    def __init__(self, sink: MetricSink) -> None:
        self._sink = sink

    def count_rejection(self) -> None:
        """Note a request that found the queue full."""
        self._sink.add(telemetry.ADMISSION_REJECTIONS)

    def observe_queue(self, num_running: int, num_waiting: int) -> None:
        """Take in how many requests there are."""
        sink = self._sink
        sink.set(telemetry.NUM_REQUESTS_RUNNING, num_running)
        sink.set(telemetry.NUM_REQUESTS_WAITING, num_waiting)
        sink.set(telemetry.NUM_REQUESTS_WAITING_BY_REASON, num_waiting, reason="capacity")

    def observe_pass(self, num_tokens: int) -> None:
        """Take in a pass that is over."""
        self._sink.observe(telemetry.ITERATION_TOKENS, num_tokens)

    def observe_answer(self, num_tokens: int, queue_s: float, pass_s: float) -> None:
        """Take in a vector, or the outputs of a head."""
        sink = self._sink
        sink.add(telemetry.REQUEST_SUCCESS, 1, finished_reason="stop")
        sink.add(telemetry.PROMPT_TOKENS, num_tokens)
        sink.observe(telemetry.REQUEST_PROMPT_TOKENS, num_tokens)
        sink.observe(telemetry.REQUEST_QUEUE_TIME, queue_s)
        sink.observe(telemetry.REQUEST_PREFILL_TIME, pass_s)
        sink.observe(telemetry.REQUEST_INFERENCE_TIME, pass_s)
        sink.observe(telemetry.E2E_REQUEST_LATENCY, queue_s + pass_s)
