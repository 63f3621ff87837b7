"""TenantMetrics: what each tenant uses and how long it waits, as metrics.

In: calls that have ended. Out: series by tenant and model, for so many tenants as the operator
wants; those that come later share one series, so that keys cannot fill the memory.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.core import telemetry
from headrace.core.telemetry import MetricSink
from headrace.economics.call_watch import CallEnd

OTHER = "other"
NO_NAMES: Mapping[str, str] = {}


class TenantMetrics:
    """A CallWatcher. `max_tenants` have series of their own; `shown_names` are those of models."""

    def __init__(
        self, sink: MetricSink, max_tenants: int, shown_names: Mapping[str, str] = NO_NAMES
    ) -> None:
        self._sink, self._max_tenants, self._shown_names = sink, max_tenants, shown_names
        self._tenants: set[str] = set()

    def ended(self, call: CallEnd) -> None:
        """See CallWatcher."""
        row, sink = call.row, self._sink
        labels = {"tenant": self._shown(row.tenant), "model_name": self._model(row.model)}
        status = status_kind(row.http_status)
        sink.add(telemetry.TENANT_CALLS, 1, **labels, status=status)
        sink.add(telemetry.TENANT_PROMPT_TOKENS, row.input_tokens or 0, **labels)
        sink.add(telemetry.TENANT_CACHED_TOKENS, row.cached_input_tokens or 0, **labels)
        sink.add(telemetry.TENANT_GENERATION_TOKENS, row.output_tokens or 0, **labels)
        if row.queue_s is not None:
            sink.observe(telemetry.TENANT_QUEUE_TIME, row.queue_s, **labels)
        if row.first_token_s is not None:
            sink.observe(telemetry.TENANT_FIRST_OUTPUT, row.first_token_s, **labels)

    def _model(self, name: str | None) -> str:
        """Empty for calls that ended before one was named."""
        return "" if name is None else self._shown_names.get(name, name)

    def _shown(self, tenant: str) -> str:
        if tenant not in self._tenants and len(self._tenants) < self._max_tenants:
            self._tenants.add(tenant)
        return tenant if tenant in self._tenants else OTHER


def status_kind(status: int | None) -> str:
    """2xx and so on; none where there was no answer."""
    return f"{status // 100}xx" if status else "none"
