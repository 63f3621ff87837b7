"""What the real server says of itself while its engine process works."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from pages import ROOT
from programs import eventually
from prometheus_client.parser import text_string_to_metric_families
from served_model import ServedModel, serve

from fakes.random_model import write_random_model

SETTINGS = """
engine: {max_num_seqs: 1, memory_bytes: 400MiB}
server: {tenant_metrics: 10}
"""
PROMPT = "the harbour master counts red boats"


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    """A server with one seat, so that the second request waits."""
    folder = tmp_path_factory.mktemp("observed")
    (folder / "settings.yaml").write_text(SETTINGS)
    model = write_random_model(folder)
    options = ("--config", str(folder / "settings.yaml"), "--log-format", "json")
    with serve(model, folder, *options) as server:
        yield server


def body(server: ServedModel, max_tokens: int, **fields: Any) -> dict[str, Any]:
    return {
        "model": server.model, "prompt": PROMPT, "max_tokens": max_tokens, "ignore_eos": True,
    } | fields  # fmt: skip


def test_debug_requests_across_the_process(observed: ServedModel) -> None:
    with observed.client() as client, observed.client() as other, observed.client() as admin:

        def look() -> dict[str, dict[str, Any]]:
            reply = admin.get("/debug/requests")
            assert PROMPT not in reply.text
            return {row["request_id"]: row for row in reply.json()["data"]}

        def ask(name: str) -> Any:
            fields, headers = body(observed, 3000, stream=True), {"x-request-id": name}
            return client.stream("POST", "/v1/completions", json=fields, headers=headers)

        def ask_second() -> int:
            fields, headers = body(observed, 2), {"x-request-id": "second"}
            return other.post("/v1/completions", json=fields, headers=headers).status_code

        with ThreadPoolExecutor(1) as pool:
            with ask("first") as first:
                lines = first.iter_lines()  # let go of, it would close the stream
                next(lines)
                second = pool.submit(ask_second)
                rows = eventually(
                    lambda: (
                        (found := look()).get("second", {}).get("waits_for") == "seats" and found
                    ),
                    "the second request waits for a seat",
                )
            assert second.result() == 200
        assert rows["first"]["state"] == "running"
        assert rows["first"]["kv_blocks"] > 0
        assert rows["first"]["generated_tokens"] > 0
        assert (rows["second"]["queue_position"], rows["second"]["kv_blocks"]) == (1, 0)
        eventually(lambda: look() == {}, "both are gone")


def entries(server: ServedModel) -> list[dict[str, Any]]:
    """The log, each line of which must be an object."""
    lines = server.program.stderr.splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def entry_of(server: ServedModel, request_id: str) -> dict[str, Any]:
    def look() -> list[dict[str, Any]]:
        return [entry for entry in entries(server) if entry.get("request_id") == request_id]

    (entry,) = eventually(look, f"the log has {request_id}")
    return entry


def test_the_log_is_json_and_has_no_prompt(observed: ServedModel) -> None:
    with observed.client() as client:
        headers = {"x-request-id": "logged"}
        mistyped = body(observed, 3) | {"temprature": 0.5}
        reply = client.post("/v1/completions", json=mistyped, headers=headers)
        text = reply.json()["choices"][0]["text"]
        client.post("/v1/completions", json={"prompt": PROMPT}, headers={"x-request-id": "bad"})
    entry = entry_of(observed, "logged")
    assert entry["level"] == "info"
    assert entry["ignored_fields"] == ["temprature"]
    assert " 200 (ignored: temprature) " in entry["message"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["time"])
    known = {name: entry[name] for name in ("method", "path", "status", "client_left", "tenant")}
    assert known == {
        "method": "POST", "path": "/v1/completions", "status": 200, "client_left": False,
        "tenant": "default",
    }  # fmt: skip
    assert (entry["model"], entry["finish_reason"]) == (observed.model, "length")
    num_prompt_tokens = reply.json()["usage"]["prompt_tokens"]
    assert (entry["input_tokens"], entry["output_tokens"]) == (num_prompt_tokens, 3)
    assert 0 <= entry["queue_s"] + entry["prefill_s"] + entry["decode_s"] <= entry["duration_s"]
    bad = entry_of(observed, "bad")
    assert (bad["status"], "output_tokens" in bad) == (400, False)
    assert PROMPT not in observed.program.stderr
    assert text not in observed.program.stderr
    assert any(entry["message"].startswith("ready at") for entry in entries(observed))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes have no such names")
def test_processes_are_told_apart_by_their_names(observed: ServedModel) -> None:
    server = psutil.Process(observed.program.process.pid)
    (engine,) = server.children()
    assert (server.name(), engine.name()) == ("headrace-serve", "headrace-engine")
    assert any(word.startswith("# headrace engine: '") for word in engine.cmdline())


def test_the_reference_names_the_metrics_that_there_are(observed: ServedModel) -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    written = re.findall(r"^\| `(\S+)` \| (\w+) \| ([^|]*) \|", page, re.MULTILINE)
    with observed.client() as client:
        headers = {"endpoint-load-metrics-format": "text"}
        reply = client.post("/v1/completions", json=body(observed, 2), headers=headers)
        client.get("/nowhere/at/all")
        text = client.get("/metrics").text
    exposed = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    assert {name: kind for name, kind, _ in written} == exposed
    labels = {name: set(names.split(", ")) - {"-"} for name, _, names in written}
    for family in text_string_to_metric_families(text):
        name = family.name if family.name in labels else f"{family.name}_total"
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == labels[name], sample
    assert reply.headers["endpoint-load-metrics"].startswith("TEXT named_metrics.kv_cache_usage")
    assert observed.metric("http_requests_total") > 0
    assert 'http_requests_total{handler="none",method="GET",status="4xx"}' in text
    assert 'handler="/v1/completions",method="POST",status="2xx"' in text
    tokens = f'headrace:tenant_generation_tokens_total{{model_name="{observed.model}",tenant="def'
    assert tokens in text
