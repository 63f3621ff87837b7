"""A real server that is paused in the middle of answers, and given new weights under them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from programs import eventually
from safetensors.numpy import load_file, save_file
from served_model import ServedModel, engine_of, serve, wait_for_another_engine

from fakes.random_model import write_random_model

LAYERS = 3
# So little memory for each engine that two are there at once.
SETTINGS = "engine: {stall_timeout_s: 1.0, max_restarts: 20, max_num_seqs: 4, max_model_len: 512}\n"
# So long that an answer is not over when the order to pause comes.
BODY = {"prompt": "A river is", "temperature": 0, "ignore_eos": True, "max_tokens": 300}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServedModel, Path]]:
    folder = tmp_path_factory.mktemp("paused")
    model = write_random_model(folder / "model", LAYERS)
    (folder / "settings.yaml").write_text(SETTINGS)
    with serve(model, folder, "--config", str(folder / "settings.yaml")) as server:
        yield server, model


class Reading:
    """A stream that is read line by line."""

    def __init__(self, reply: httpx.Response) -> None:
        self._lines, self.text, self.ends = reply.iter_lines(), "", list[Any]()

    def next(self, count: int = 1) -> None:
        """Read some tokens more."""
        while count and (line := next(self._lines, None)) is not None:
            if line.startswith("data: {"):
                (choice,) = json.loads(line[6:])["choices"]
                self.text += choice["text"]
                self.ends += [choice["finish_reason"]] if choice["finish_reason"] else []
                count -= 1

    def rest(self) -> tuple[str, list[Any]]:
        self.next(10_000)
        return self.text, self.ends


def whole(client: httpx.Client, server: ServedModel) -> str:
    reply = client.post("/v1/completions", json=BODY | {"model": server.model})
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["text"])


def test_a_pause_and_a_death_in_mid_answer_change_no_byte(
    served: tuple[ServedModel, Path],
) -> None:
    server, _ = served
    with server.client() as client, server.client() as control:
        expected = whole(client, server)
        body = BODY | {"model": server.model, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as reply:
            stream = Reading(reply)
            stream.next(3)
            paused = control.post("/pause", params={"mode": "keep"})
            assert paused.json() == {"status": "paused"}
            health = control.get("/health")
            assert (health.status_code, "paused" in health.text) == (503, True)
            (row,) = control.get("/debug/requests").json()["data"]
            assert row["waits_for"] == "pause"
            first = engine_of(server)
            first.kill()
            wait_for_another_engine(server, first)
            # What it has of the answer stands still in the new engine too, and is no stall.
            eventually(
                lambda: [row["waits_for"] for row in debug(control)] == ["pause"], "paused again"
            )
            assert control.get("/is_paused").json() == {"is_paused": True}
            assert control.post("/resume").json() == {"status": "resumed"}
            assert stream.rest() == (expected, ["length"])
        assert control.get("/health").status_code == 200
        assert control.post("/reset_prefix_cache").json() == {"success": True}
        assert whole(client, server) == expected


def debug(control: httpx.Client) -> list[Any]:
    rows: list[Any] = control.get("/debug/requests").json()["data"]
    return rows


def test_new_weights_under_a_stream_that_ends_on_the_old_ones(
    served: tuple[ServedModel, Path],
) -> None:
    server, model = served
    with server.client() as client, server.client() as control:
        old = whole(client, server)
        body = BODY | {"model": server.model, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as reply:
            stream = Reading(reply)
            stream.next(2)
            # It must not be over when the new engine takes its place.
            assert control.post("/pause", params={"mode": "keep"}).status_code == 200
            assert [row["waits_for"] for row in debug(control)] == ["pause"]
            change_weights(model)
            first = engine_of(server)
            reloaded = control.post(f"/v1/models/{server.model}/reload", timeout=120)
            assert reloaded.status_code == 200, reloaded.text
            assert not stream.ends
            control.post("/resume")
            new = whole(control, server)
            assert new != old
            assert stream.rest() == (old, ["length"])
        assert whole(client, server) == new
        info = control.get("/server_info", params={"config_format": "json"}).json()
        assert info["headrace_config"]["engine"]["stall_timeout_s"] == 1.0
        assert [entry["is_paused"] for entry in info["models"]] == [False]
        wait_for_another_engine(server, first)


def change_weights(model: Path) -> None:
    """Other weights in a new file at the old place: what is mapped stays as it was."""
    file = model / "model.safetensors"
    weights = load_file(file)
    weights["lm_head.weight"] = np.ascontiguousarray(weights["lm_head.weight"][::-1])
    save_file(weights, model / "new.safetensors")
    (model / "new.safetensors").replace(file)
