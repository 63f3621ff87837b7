"""OpenTelemetrySink: spans and gen_ai histograms to an OTLP receiver over HTTP.

In: spans that have ended, measurements. Out: protobuf, from threads of the SDK, in batches; what
the receiver does not take in time is dropped, and logged by the SDK. The only importer of
opentelemetry (the extra `otel`); loaded when an endpoint is set.
"""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Histogram
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from headrace.core.tracing import AttributeValue, Span, TraceContext, TracedHistogram

_SCOPE = "headrace"
_KINDS = {"server": SpanKind.SERVER, "internal": SpanKind.INTERNAL}
_NANO = 1_000_000_000


class OpenTelemetrySink:
    """A SpanSink. `endpoint` is the receiver's base address, such as http://localhost:4318.

    Headers, time limits, intervals and attributes of the resource come from the SDK's own
    variables, `OTEL_*`.
    """

    def __init__(self, endpoint: str, version: str, service_name: str = "headrace") -> None:
        base = endpoint.rstrip("/")
        given = {"service.name": service_name, "service.version": version}
        from_environment = OTELResourceDetector().detect()
        self._resource = Resource.create().merge(Resource(given)).merge(from_environment)
        self._scope = InstrumentationScope(_SCOPE, version)
        self._spans = BatchSpanProcessor(OTLPSpanExporter(f"{base}/v1/traces"))
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{base}/v1/metrics"))
        self._meters = MeterProvider([reader], self._resource, shutdown_on_exit=False)
        self._meter = self._meters.get_meter(_SCOPE, version)
        self._histograms: dict[str, Histogram] = {}

    def add(self, span: Span) -> None:
        """See SpanSink."""
        context = span.context
        parent = None
        if context.parent_id:
            parent = _to_context(context, context.parent_id, is_remote=span.kind == "server")
        status = Status(StatusCode.UNSET)
        if span.error is not None:
            status = Status(StatusCode.ERROR, span.error)
        self._spans.on_end(
            ReadableSpan(
                name=span.name,
                context=_to_context(context, context.span_id),
                parent=parent,
                resource=self._resource,
                attributes=dict(span.attributes),
                kind=_KINDS[span.kind],
                status=status,
                start_time=int(span.begin_s * _NANO),
                end_time=int(span.end_s * _NANO),
                instrumentation_scope=self._scope,
            )
        )

    def observe(
        self, histogram: TracedHistogram, value: float, attributes: Mapping[str, AttributeValue]
    ) -> None:
        """See SpanSink."""
        known = self._histograms.get(histogram.name)
        if known is None:
            known = self._meter.create_histogram(
                histogram.name,
                histogram.unit,
                histogram.help,
                explicit_bucket_boundaries_advisory=histogram.buckets,
            )
            self._histograms[histogram.name] = known
        known.record(value, dict(attributes))

    def close(self) -> None:
        """See SpanSink."""
        self._spans.shutdown()  # type: ignore[no-untyped-call]
        self._meters.shutdown()


def _to_context(context: TraceContext, span_id: str, is_remote: bool = False) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.is_sampled else TraceFlags.DEFAULT)
    state = TraceState.from_header([context.state] if context.state else [])
    return SpanContext(int(context.trace_id, 16), int(span_id, 16), is_remote, flags, state)
