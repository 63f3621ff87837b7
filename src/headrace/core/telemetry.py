"""Names of what is measured, and who takes the measurements.

A metric is a row here: name as exposed, kind, help, labels, bucket edges. Engine metrics have
vLLM's names and edges, so that existing dashboards and scaling triggers work. Whoever knows a fact
counts it on a MetricSink; what a sink does with it is not known here.
"""

from __future__ import annotations

from typing import Literal, Protocol

from headrace.core.frozen import frozen

MetricKind = Literal["gauge", "counter", "histogram"]


@frozen
class Metric:
    """One row. `labels` come after `model_name` and `engine`, which all have that are `per_model`.

    `name` is the exposed one; a counter's ends in `_total`. `buckets` are upper edges without +Inf.
    `old_name` is the one that elder programs look for; it is exposed too where that is wanted.
    """

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    per_model: bool = True
    old_name: str | None = None


class MetricSink(Protocol):
    """Takes measurements. Safe to call from any thread. `labels` name each of the metric's own."""

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Give a gauge its value."""
        ...

    def add(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        """Add to a counter. `amount` is 0 or more."""
        ...

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Put a value into a histogram."""
        ...


class NoMetrics:
    """A sink for nobody."""

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Ignore it."""

    def add(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        """Ignore it."""

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Ignore it."""


# Source of all edges: vLLM, `v1/metrics/loggers.py`.
_TOKENS = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000),
)
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_ANSWERS = (1, 2, 5, 10, 20)
_PREEMPTIONS = (0, 1, 2, 5, 10, 20)
_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_NEXT_TOKEN_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)

NUM_REQUESTS_RUNNING = Metric("vllm:num_requests_running", "gauge", "Requests in the batch.")
NUM_REQUESTS_WAITING = Metric("vllm:num_requests_waiting", "gauge", "Requests in the queue.")
NUM_REQUESTS_WAITING_BY_REASON = Metric(
    "vllm:num_requests_waiting_by_reason",
    "gauge",
    "Requests in the queue: for capacity, or deferred until another one has their prefix.",
    ("reason",),
)
KV_CACHE_USAGE = Metric(
    "vllm:kv_cache_usage_perc",
    "gauge",
    "Share of KV cache blocks in use; 1 is all of them.",
    old_name="vllm:gpu_cache_usage_perc",
)
CACHE_CONFIG = Metric(
    "vllm:cache_config_info",
    "gauge",
    "Size of the KV cache, in labels; the value is 1.",
    ("block_size", "num_gpu_blocks"),
)
LORA_REQUESTS = Metric(
    "vllm:lora_requests_info",
    "gauge",
    "Labels of vLLM, not filled: an adapter is a model of its own; the value is 1.",
    ("max_lora", "running_lora_adapters", "waiting_lora_adapters"),
)
PREFIX_CACHE_QUERIES = Metric(
    "vllm:prefix_cache_queries_total", "counter", "Tokens looked up in the prefix cache."
)
PREFIX_CACHE_HITS = Metric(
    "vllm:prefix_cache_hits_total", "counter", "Tokens found in the prefix cache."
)
NUM_PREEMPTIONS = Metric(
    "vllm:num_preemptions_total", "counter", "Requests stopped to free blocks, computed again."
)
SPEC_DECODE_DRAFTS = Metric(
    "vllm:spec_decode_num_drafts_total", "counter", "Guesses of next tokens that were computed."
)
SPEC_DECODE_DRAFT_TOKENS = Metric(
    "vllm:spec_decode_num_draft_tokens_total", "counter", "Tokens of those guesses."
)
SPEC_DECODE_ACCEPTED_TOKENS = Metric(
    "vllm:spec_decode_num_accepted_tokens_total",
    "counter",
    "Tokens of those guesses that were right: answers got them without a step of their own.",
)
SPEC_DECODE_ACCEPTANCE_LENGTH = Metric(
    "headrace:spec_decode_mean_acceptance_length",
    "gauge",
    "Tokens that a step with a guess brought its answer: 1 and those that were right; the mean of "
    "all so far.",
)
SPEC_DECODE_SPEED_UP = Metric(
    "headrace:spec_decode_speed_up",
    "gauge",
    "Estimate of how much faster answers come with guesses, passes of a draft model included; of "
    "the last hundreds of steps.",
)
ADMISSION_REJECTIONS = Metric(
    "vllm:admission_rejections_total", "counter", "Requests refused because the queue was full."
)
PROMPT_TOKENS = Metric("vllm:prompt_tokens_total", "counter", "Prompt tokens computed or reused.")
GENERATION_TOKENS = Metric("vllm:generation_tokens_total", "counter", "Tokens generated.")
REQUEST_SUCCESS = Metric(
    "vllm:request_success_total", "counter", "Answers that ended, by reason.", ("finished_reason",)
)
ITERATION_TOKENS = Metric(
    "vllm:iteration_tokens_total", "histogram", "Tokens computed in a step.", (), _STEP_TOKENS
)
REQUEST_PROMPT_TOKENS = Metric(
    "vllm:request_prompt_tokens", "histogram", "Prompt tokens of a request.", (), _TOKENS
)
REQUEST_GENERATION_TOKENS = Metric(
    "vllm:request_generation_tokens", "histogram", "Tokens generated for a request.", (), _TOKENS
)
REQUEST_PARAMS_N = Metric(
    "vllm:request_params_n", "histogram", "Answers asked for per request.", (), _ANSWERS
)
REQUEST_PARAMS_MAX_TOKENS = Metric(
    "vllm:request_params_max_tokens", "histogram", "max_tokens of a request.", (), _TOKENS
)
REQUEST_NUM_PREEMPTIONS = Metric(
    "vllm:request_num_preemptions", "histogram", "Preemptions of a request.", (), _PREEMPTIONS
)
TIME_TO_FIRST_TOKEN = Metric(
    "vllm:time_to_first_token_seconds",
    "histogram",
    "Seconds from arrival to the first token.",
    (),
    _FIRST_TOKEN_S,
)
INTER_TOKEN_LATENCY = Metric(
    "vllm:inter_token_latency_seconds",
    "histogram",
    "Seconds between tokens of an answer.",
    (),
    _NEXT_TOKEN_S,
    old_name="vllm:time_per_output_token_seconds",
)
E2E_REQUEST_LATENCY = Metric(
    "vllm:e2e_request_latency_seconds",
    "histogram",
    "Seconds from arrival to the end.",
    (),
    _REQUEST_S,
)
REQUEST_QUEUE_TIME = Metric(
    "vllm:request_queue_time_seconds", "histogram", "Seconds in the queue.", (), _REQUEST_S
)
REQUEST_INFERENCE_TIME = Metric(
    "vllm:request_inference_time_seconds",
    "histogram",
    "Seconds from the first step to the end.",
    (),
    _REQUEST_S,
)
REQUEST_PREFILL_TIME = Metric(
    "vllm:request_prefill_time_seconds",
    "histogram",
    "Seconds from the first step to the first token.",
    (),
    _REQUEST_S,
)
REQUEST_DECODE_TIME = Metric(
    "vllm:request_decode_time_seconds",
    "histogram",
    "Seconds from the first token to the end.",
    (),
    _REQUEST_S,
)

LEDGER_ROWS = Metric("headrace:ledger_rows_total", "counter", "Usage rows written to the database.")
LEDGER_ROWS_WAITING = Metric(
    "headrace:ledger_rows_waiting", "gauge", "Usage rows that are not in the database yet."
)
LEDGER_FAILURES = Metric(
    "headrace:ledger_failures_total", "counter", "Attempts to write usage rows that failed."
)
LEDGER_ROWS_LOST = Metric(
    "headrace:ledger_rows_lost_total", "counter", "Usage rows that had no room to wait in."
)
REQUESTS_STORED = Metric(
    "headrace:requests_stored_total", "counter", "Calls kept in the database to be run again."
)
REQUESTS_NOT_STORED = Metric(
    "headrace:requests_not_stored_total",
    "counter",
    "Calls that were to be kept and are lost: no room, or no database.",
)

BATCHES_UNFINISHED = Metric("headrace:batches_unfinished", "gauge", "Batches that have not ended.")
BATCH_REQUESTS = Metric(
    "headrace:batch_requests_total",
    "counter",
    "Lines of batches that were answered, by outcome: completed or failed.",
    ("outcome",),
)
ENGINE_RESTARTS = Metric(
    "headrace:engine_restarts_total",
    "counter",
    "Times the engine process was started again, by why it ended: died, failed or stalled.",
    ("reason",),
)
REQUESTS_RESUMED = Metric(
    "headrace:requests_resumed_total",
    "counter",
    "Unfinished answers that a restarted engine process went on with.",
)
BUDGET_REFUSALS = Metric(
    "headrace:budget_refusals_total",
    "counter",
    "Requests refused for a budget, by its kind: all, tenant, key, model or tag.",
    ("scope",),
)

# Source of names and edges: prometheus-fastapi-instrumentator, which vLLM uses.
HTTP_REQUESTS = Metric(
    "http_requests_total",
    "counter",
    "HTTP requests that ended, by route, method and kind of status; 'none' had no answer.",
    ("handler", "method", "status"),
    per_model=False,
)
HTTP_REQUEST_DURATION = Metric(
    "http_request_duration_seconds",
    "histogram",
    "Seconds from the head of a request to the end of its answer.",
    ("handler", "method"),
    (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
    per_model=False,
)
HTTP_IN_PROGRESS = Metric(
    "headrace:http_requests_in_progress",
    "gauge",
    "HTTP requests that are being answered, this one too.",
    per_model=False,
)

_TENANT = ("tenant", "model_name")
TENANT_CALLS = Metric(
    "headrace:tenant_calls_total",
    "counter",
    "Calls that ended, by kind of status; 'none' had no answer.",
    (*_TENANT, "status"),
    per_model=False,
)
TENANT_PROMPT_TOKENS = Metric(
    "headrace:tenant_prompt_tokens_total",
    "counter",
    "Prompt tokens of calls that ended.",
    _TENANT,
    per_model=False,
)
TENANT_CACHED_TOKENS = Metric(
    "headrace:tenant_cached_tokens_total",
    "counter",
    "Of the prompt tokens, those found in the prefix cache.",
    _TENANT,
    per_model=False,
)
TENANT_GENERATION_TOKENS = Metric(
    "headrace:tenant_generation_tokens_total",
    "counter",
    "Tokens generated for calls that ended.",
    _TENANT,
    per_model=False,
)
TENANT_QUEUE_TIME = Metric(
    "headrace:tenant_queue_time_seconds",
    "histogram",
    "Seconds in the queue.",
    _TENANT,
    _REQUEST_S,
    per_model=False,
)
TENANT_FIRST_OUTPUT = Metric(
    "headrace:tenant_time_to_first_token_seconds",
    "histogram",
    "Seconds from the call to its first token.",
    _TENANT,
    _FIRST_TOKEN_S,
    per_model=False,
)

ROUTED_ATTEMPTS = Metric(
    "headrace_routed_attempts_total",
    "counter",
    "Backends that were asked for a tier, by how it ended: answered, failed or left; escalated and "
    "checked are of those that answered.",
    labels=("tier", "backend", "outcome"),
    per_model=False,
)

CACHED_RESPONSES = Metric(
    "headrace_cached_responses_total",
    "counter",
    "Requests where answers are kept: hit, semantic, miss, or bypass, where this one's are not.",
    labels=("status",),
    per_model=False,
)
HEDGED_REQUESTS = Metric(
    "headrace_hedged_requests_total",
    "counter",
    "Requests for which a second backend of a tier was asked, by which one answered: first or "
    "second.",
    labels=("tier", "winner"),
    per_model=False,
)
SHADOW_REQUESTS = Metric(
    "headrace_shadow_requests_total",
    "counter",
    "Answers chosen for a comparison with another tier's, by what came of it: compared, failed, "
    "or dropped, where too many were running.",
    labels=("tier", "outcome"),
    per_model=False,
)

METRICS: tuple[Metric, ...] = (
    NUM_REQUESTS_RUNNING,
    NUM_REQUESTS_WAITING,
    NUM_REQUESTS_WAITING_BY_REASON,
    KV_CACHE_USAGE,
    CACHE_CONFIG,
    LORA_REQUESTS,
    PREFIX_CACHE_QUERIES,
    PREFIX_CACHE_HITS,
    NUM_PREEMPTIONS,
    SPEC_DECODE_DRAFTS,
    SPEC_DECODE_DRAFT_TOKENS,
    SPEC_DECODE_ACCEPTED_TOKENS,
    SPEC_DECODE_ACCEPTANCE_LENGTH,
    SPEC_DECODE_SPEED_UP,
    ADMISSION_REJECTIONS,
    PROMPT_TOKENS,
    GENERATION_TOKENS,
    REQUEST_SUCCESS,
    ITERATION_TOKENS,
    REQUEST_PROMPT_TOKENS,
    REQUEST_GENERATION_TOKENS,
    REQUEST_PARAMS_N,
    REQUEST_PARAMS_MAX_TOKENS,
    REQUEST_NUM_PREEMPTIONS,
    TIME_TO_FIRST_TOKEN,
    INTER_TOKEN_LATENCY,
    E2E_REQUEST_LATENCY,
    REQUEST_QUEUE_TIME,
    REQUEST_INFERENCE_TIME,
    REQUEST_PREFILL_TIME,
    REQUEST_DECODE_TIME,
    LEDGER_ROWS,
    LEDGER_ROWS_WAITING,
    LEDGER_FAILURES,
    LEDGER_ROWS_LOST,
    BATCHES_UNFINISHED,
    BATCH_REQUESTS,
    ENGINE_RESTARTS,
    REQUESTS_RESUMED,
    REQUESTS_STORED,
    REQUESTS_NOT_STORED,
    HTTP_REQUESTS,
    HTTP_REQUEST_DURATION,
    HTTP_IN_PROGRESS,
    TENANT_CALLS,
    TENANT_PROMPT_TOKENS,
    TENANT_CACHED_TOKENS,
    TENANT_GENERATION_TOKENS,
    TENANT_QUEUE_TIME,
    TENANT_FIRST_OUTPUT,
    BUDGET_REFUSALS,
    ROUTED_ATTEMPTS,
    CACHED_RESPONSES,
    HEDGED_REQUESTS,
    SHADOW_REQUESTS,
)
