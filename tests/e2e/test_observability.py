"""What the real server says of itself while its engine process works."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from programs import eventually
from served_model import ServedModel, serve

from fakes.random_model import write_random_model

SETTINGS = "engine: {max_num_seqs: 1, memory_bytes: 400MiB}\n"
PROMPT = "the harbour master counts red boats"


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    """A server with one seat, so that the second request waits."""
    folder = tmp_path_factory.mktemp("observed")
    (folder / "settings.yaml").write_text(SETTINGS)
    model = write_random_model(folder)
    with serve(model, folder, "--config", str(folder / "settings.yaml")) as server:
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
                    timeout_s=20,
                )
            assert second.result() == 200
        assert rows["first"]["state"] == "running"
        assert rows["first"]["kv_blocks"] > 0
        assert rows["first"]["generated_tokens"] > 0
        assert (rows["second"]["queue_position"], rows["second"]["kv_blocks"]) == (1, 0)
        eventually(lambda: look() == {}, "both are gone")
