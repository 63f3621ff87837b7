"""The exposed text: names, kinds, labels, bucket edges, values."""

from __future__ import annotations

import math
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from headrace.core import telemetry
from headrace.core.telemetry import METRICS, Metric
from headrace.observe.prometheus import PrometheusMetrics

BASE = {"model_name": "tiny", "engine": "0"}


def read(metrics: PrometheusMetrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def series(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted((BASE | labels).items()))


def test_metrics_of_the_server_name_no_model() -> None:
    metrics = PrometheusMetrics("tiny")
    metrics.for_model("other").set(telemetry.HTTP_IN_PROGRESS, 2)
    metrics.add(telemetry.HTTP_REQUESTS, handler="/x", method="GET", status="2xx")
    values = read(metrics)
    assert values["headrace:http_requests_in_progress", ()] == 2
    labels = (("handler", "/x"), ("method", "GET"), ("status", "2xx"))
    assert values["http_requests_total", labels] == 1


def test_old_names_are_exposed_where_that_is_wanted() -> None:
    for is_wanted in (True, False):
        metrics = PrometheusMetrics("tiny", has_old_names=is_wanted)
        metrics.set(telemetry.KV_CACHE_USAGE, 0.25)
        metrics.observe(telemetry.INTER_TOKEN_LATENCY, 0.02)
        values, text = read(metrics), metrics.render().decode()
        old = series("vllm:gpu_cache_usage_perc")
        assert values.get(old) == (0.25 if is_wanted else None)
        assert values[series("vllm:kv_cache_usage_perc")] == 0.25
        count = series("vllm:time_per_output_token_seconds_count")
        assert values.get(count) == (1 if is_wanted else None)
        typed = "# TYPE vllm:time_per_output_token_seconds histogram\n" in text
        assert typed == is_wanted


def test_gauges_of_all_models_can_be_read() -> None:
    metrics = PrometheusMetrics("tiny")
    metrics.set(telemetry.NUM_REQUESTS_WAITING, 3)
    metrics.for_model("other").set(telemetry.NUM_REQUESTS_WAITING, 4)
    assert metrics.gauge(telemetry.NUM_REQUESTS_WAITING) == [3, 4]
    assert metrics.gauge(telemetry.KV_CACHE_USAGE) == []


def test_every_metric_without_labels_starts_at_zero() -> None:
    values = read(PrometheusMetrics("tiny"))
    for metric in METRICS:
        if metric.labels:
            continue
        name = f"{metric.name}_count" if metric.kind == "histogram" else metric.name
        key = series(name) if metric.per_model else (name, ())
        assert values[key] == 0, metric.name


def test_exposed_kinds_are_the_tables() -> None:
    text = PrometheusMetrics("tiny").render().decode()
    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.kind}\n" in text
        assert f"# HELP {metric.name} {metric.help}\n" in text
    assert "_created" not in text
    assert PrometheusMetrics.content_type.startswith("text/plain; version=0.0.4")


def test_bucket_edges_are_the_tables() -> None:
    metrics = PrometheusMetrics("tiny")
    for family in text_string_to_metric_families(metrics.render().decode()):
        rows = [metric for metric in METRICS if metric.name == family.name]
        if family.type != "histogram":
            continue
        if rows[0].labels:
            continue  # no series yet
        edges = [float(s.labels["le"]) for s in family.samples if s.name.endswith("_bucket")]
        assert edges == [*map(float, rows[0].buckets), math.inf]


def test_values() -> None:
    metrics = PrometheusMetrics("tiny")
    metrics.set(telemetry.NUM_REQUESTS_RUNNING, 3)
    metrics.set(telemetry.NUM_REQUESTS_RUNNING, 2)
    metrics.set(telemetry.CACHE_CONFIG, 1, block_size="32", num_gpu_blocks="100")
    metrics.add(telemetry.PROMPT_TOKENS, 5)
    metrics.add(telemetry.PROMPT_TOKENS)
    metrics.add(telemetry.REQUEST_SUCCESS, finished_reason="stop")
    metrics.observe(telemetry.TIME_TO_FIRST_TOKEN, 0.03)
    metrics.observe(telemetry.ITERATION_TOKENS, 100_000)
    values = read(metrics)
    assert values[series("vllm:num_requests_running")] == 2
    assert values[series("vllm:cache_config_info", block_size="32", num_gpu_blocks="100")] == 1
    assert values[series("vllm:prompt_tokens_total")] == 6
    assert values[series("vllm:request_success_total", finished_reason="stop")] == 1
    assert values[series("vllm:time_to_first_token_seconds_bucket", le="0.02")] == 0
    assert values[series("vllm:time_to_first_token_seconds_bucket", le="0.04")] == 1
    assert values[series("vllm:time_to_first_token_seconds_sum")] == pytest.approx(0.03)
    assert values[series("vllm:iteration_tokens_total_bucket", le="16384.0")] == 0
    assert values[series("vllm:iteration_tokens_total_count")] == 1


def test_two_sinks_share_nothing() -> None:
    first, second = PrometheusMetrics("tiny"), PrometheusMetrics("tiny")
    first.add(telemetry.GENERATION_TOKENS, 7)
    assert read(first)[series("vllm:generation_tokens_total")] == 7
    assert read(second)[series("vllm:generation_tokens_total")] == 0


def test_models_are_written_together_and_counted_apart() -> None:
    first = PrometheusMetrics("tiny")
    second = first.for_model("small")
    first.add(telemetry.PROMPT_TOKENS, 3)
    second.add(telemetry.PROMPT_TOKENS, 4)
    values = read(second)
    assert values == read(first)
    assert values[series("vllm:prompt_tokens_total")] == 3
    assert values[series("vllm:prompt_tokens_total", model_name="small")] == 4
    assert values[series("vllm:generation_tokens_total", model_name="small")] == 0


def test_model_names_are_escaped() -> None:
    metrics = PrometheusMetrics('a"b\\c\nd', engine="1")
    values = read(metrics)
    key = ("vllm:prompt_tokens_total", (("engine", "1"), ("model_name", 'a"b\\c\nd')))
    assert values[key] == 0


def test_a_wrong_use_is_an_error() -> None:
    metrics = PrometheusMetrics("tiny")
    with pytest.raises(TypeError, match="no counter"):
        metrics.add(telemetry.NUM_REQUESTS_RUNNING)
    with pytest.raises(TypeError, match="no gauge"):
        metrics.set(telemetry.PROMPT_TOKENS, 1)
    with pytest.raises(TypeError, match="no histogram"):
        metrics.observe(telemetry.PROMPT_TOKENS, 1)
    with pytest.raises(KeyError):
        metrics.add(telemetry.REQUEST_SUCCESS)
    with pytest.raises(KeyError):
        metrics.add(Metric("other_total", "counter", "Not in the table."))


def test_threads_lose_no_count() -> None:
    metrics = PrometheusMetrics("tiny")

    def work() -> None:
        for _ in range(2000):
            metrics.add(telemetry.REQUEST_SUCCESS, finished_reason="stop")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(metrics)[series("vllm:request_success_total", finished_reason="stop")] == 8000
