"""An OTLP receiver over HTTP that keeps what it is sent, as plain values."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class ReceivedSpan:
    """Ids in hexadecimal, times in seconds."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    is_error: bool
    begin_s: float
    end_s: float
    attributes: dict[str, Any]


@dataclass
class Receiver:
    """`histograms` are by name: counts, edges and attributes of the newest export."""

    address: str = ""
    spans: list[ReceivedSpan] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    histograms: dict[str, list[tuple[int, list[float], dict[str, Any]]]] = field(
        default_factory=dict
    )
    texts: list[bytes] = field(default_factory=list)

    def take(self, path: str, data: bytes) -> None:
        self.texts.append(data)
        if path == "/v1/traces":
            for group in ExportTraceServiceRequest.FromString(data).resource_spans:
                self.resources.append(plain(group.resource.attributes))
                self.spans += [to_span(s) for part in group.scope_spans for s in part.spans]
        elif path == "/v1/metrics":
            for group in ExportMetricsServiceRequest.FromString(data).resource_metrics:
                for metric in (m for part in group.scope_metrics for m in part.metrics):
                    self.histograms[metric.name] = [
                        (point.count, list(point.explicit_bounds), plain(point.attributes))
                        for point in metric.histogram.data_points
                    ]


def plain(attributes: Any) -> dict[str, Any]:
    return {entry.key: value_of(entry.value) for entry in attributes}


def value_of(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(each) for each in value.array_value.values]
    return getattr(value, kind)


def to_span(span: Any) -> ReceivedSpan:
    return ReceivedSpan(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.status.code == 2,
        span.start_time_unix_nano / 1e9,
        span.end_time_unix_nano / 1e9,
        plain(span.attributes),
    )


@contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.take(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    receiver.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
