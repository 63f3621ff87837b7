"""Metrics by tenant: counted from calls, for no more tenants than the operator wants."""

from __future__ import annotations

from fakes.running_engine import Recorder
from headrace.economics.call_watch import CallEnd, tell
from headrace.economics.tenant_metrics import TenantMetrics
from headrace.economics.usage_row import UsageRow


def call(tenant: str, **fields: object) -> CallEnd:
    row = UsageRow("id", "r", 0, "2026-11-22", tenant, model="m", http_status=200)
    return CallEnd(row._replace(**fields))


def test_what_a_tenant_uses() -> None:
    sink = Recorder()
    metrics = TenantMetrics(sink, 5, {"m": "shown"})
    used = {"input_tokens": 10, "cached_input_tokens": 4, "output_tokens": 3, "queue_s": 0.5}
    metrics.ended(call("a", first_token_s=0.7, **used))
    metrics.ended(call("a", model=None, http_status=None, input_tokens=None))
    assert sink.counters["headrace:tenant_calls_total:a:shown:2xx"] == 1
    assert sink.counters["headrace:tenant_calls_total:a::none"] == 1
    assert sink.counters["headrace:tenant_prompt_tokens_total:a:shown"] == 10
    assert sink.counters["headrace:tenant_cached_tokens_total:a:shown"] == 4
    assert sink.counters["headrace:tenant_generation_tokens_total:a:shown"] == 3
    assert sink.observed["headrace:tenant_queue_time_seconds"] == [0.5]
    assert sink.observed["headrace:tenant_time_to_first_token_seconds"] == [0.7]


def test_tenants_beyond_the_limit_share_a_series() -> None:
    sink = Recorder()
    metrics = TenantMetrics(sink, 2)
    for tenant in ("a", "b", "c", "a", "d"):
        metrics.ended(call(tenant))
    counted = {name: n for name, n in sink.counters.items() if "calls" in name}
    assert counted == {
        "headrace:tenant_calls_total:a:m:2xx": 2,
        "headrace:tenant_calls_total:b:m:2xx": 1,
        "headrace:tenant_calls_total:other:m:2xx": 2,
    }


def test_a_watcher_that_fails_does_not_stop_the_others() -> None:
    class Broken:
        def ended(self, call: CallEnd) -> None:
            raise ValueError("broken")

    sink = Recorder()
    tell((Broken(), TenantMetrics(sink, 1)), call("a"))
    assert sink.counters["headrace:tenant_calls_total:a:m:2xx"] == 1
