"""PrometheusMetrics: a MetricSink that keeps the numbers and writes them as Prometheus text.

In: measurements from any thread. Out: the text of `/metrics`. Owns its registry: two servers in one
process, or two tests, share no number. The only importer of prometheus-client.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from headrace.core.telemetry import METRICS, Metric

_BASE_LABELS = ("model_name", "engine")
_Collector = Counter | Gauge | Histogram


class PrometheusMetrics:
    """Every metric of the table for one engine; those without own labels start at zero."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(
        self,
        model_name: str,
        engine: str = "0",
        metrics: Sequence[Metric] = METRICS,
        has_old_names: bool = False,
    ) -> None:
        """`has_old_names` writes metrics that have one under their old name too."""
        self._base = (model_name, engine)
        self._has_old_names = has_old_names
        # The newest value of each gauge without labels, by name and model.
        self._gauges: dict[tuple[str, str], float] = {}
        self._registry = CollectorRegistry()
        self._collectors = {metric: self._make(metric) for metric in metrics}
        self._children: dict[tuple[str, ...], _Collector] = {}
        self._start_at_zero()

    def for_model(self, model_name: str) -> PrometheusMetrics:
        """The same metrics for another model, written together with these."""
        other = copy(self)
        other._base, other._children = (model_name, self._base[1]), {}
        other._start_at_zero()
        return other

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Give a gauge its value."""
        child = self._child(metric, labels)
        if not isinstance(child, Gauge):
            raise TypeError(f"{metric.name} is no gauge")
        child.set(value)
        if not labels:
            self._gauges[metric.name, self._base[0]] = value

    def gauge(self, metric: Metric) -> list[float]:
        """The newest value of a gauge without labels, for each model that has one."""
        return [value for (name, _), value in list(self._gauges.items()) if name == metric.name]

    def add(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        child = self._child(metric, labels)
        if not isinstance(child, Counter):
            raise TypeError(f"{metric.name} is no counter")
        child.inc(amount)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Put a value into a histogram."""
        child = self._child(metric, labels)
        if not isinstance(child, Histogram):
            raise TypeError(f"{metric.name} is no histogram")
        child.observe(value)

    def render(self) -> bytes:
        """Write everything as text, format 0.0.4, without the times at which series began."""
        lines = [
            line
            for line in generate_latest(self._registry).splitlines(keepends=True)
            if not _is_creation_time(line)
        ]
        if self._has_old_names:
            lines += [
                line for metric in self._collectors for line in _under_old_name(metric, lines)
            ]
        return b"".join(lines)

    def _start_at_zero(self) -> None:
        for metric in self._collectors:
            if not metric.labels:
                self._child(metric, {})

    def _make(self, metric: Metric) -> _Collector:
        labels = (*(_BASE_LABELS if metric.per_model else ()), *metric.labels)
        if metric.kind == "gauge":
            return Gauge(metric.name, metric.help, labels, registry=self._registry)
        if metric.kind == "counter":
            return Counter(metric.name, metric.help, labels, registry=self._registry)
        return Histogram(
            metric.name, metric.help, labels, buckets=metric.buckets, registry=self._registry
        )

    def _child(self, metric: Metric, labels: dict[str, str]) -> _Collector:
        """The series of these labels; kept, because finding it costs more than adding to it."""
        values = tuple([labels[name] for name in metric.labels]) if metric.labels else ()
        key = (metric.name, *values)
        child = self._children.get(key)
        if child is None:
            if len(labels) != len(metric.labels):
                raise TypeError(f"{metric.name} has the labels {metric.labels}")
            child = self._collectors[metric]
            base = self._base if metric.per_model else ()
            if base or values:
                child = child.labels(*base, *values)
            self._children[key] = child
        return child


def _under_old_name(metric: Metric, lines: Sequence[bytes]) -> list[bytes]:
    """The lines of a metric as elder programs expect them; none where it has one name only."""
    if metric.old_name is None:
        return []
    name, old_name = metric.name.encode(), metric.old_name.encode()
    return [line.replace(name, old_name, 1) for line in lines if name in line.split(b"{", 1)[0]]


def _is_creation_time(line: bytes) -> bool:
    name = line.split(b" ", 3)[2] if line.startswith(b"#") else line.split(b"{", 1)[0]
    return name.strip().endswith(b"_created")
