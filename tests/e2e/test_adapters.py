"""`headrace serve --lora`: an adapter outlives the engine process, and so do its requests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from served_model import ServedModel, engine_of, serve, wait_for_another_engine

from fakes.random_adapter import write_random_adapter
from fakes.random_model import write_random_model

LAYERS = 2
SETTINGS = "engine: {max_restarts: 20, memory_bytes: 400MiB, adapter_memory_bytes: 8MiB}\n"


def answer(server: ServedModel, model: str, max_tokens: int = 8) -> Any:
    body = {"prompt": "A river is", "temperature": 0, "ignore_eos": True, "model": model}
    with server.client() as client:
        reply = client.post("/v1/completions", json=body | {"max_tokens": max_tokens})
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"]


def test_adapters_are_there_again_after_the_engine_died(tmp_path: Path) -> None:
    model = write_random_model(tmp_path / "model", LAYERS)
    first, later = (
        write_random_adapter(tmp_path / name, seed, LAYERS)
        for seed, name in enumerate(("first", "later"))
    )
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    options = ("--config", str(tmp_path / "settings.yaml"), "--lora", f"first={first}")
    with serve(model, tmp_path, *options, "--allow-runtime-adapters") as server:
        with server.client() as client:
            loaded = client.post(
                "/v1/load_lora_adapter", json={"lora_name": "later", "lora_path": str(later)}
            )
            assert loaded.status_code == 200, loaded.text
        names = (server.model, "first", "later")
        before = [answer(server, name) for name in names]
        assert len({each[0]["text"] for each in before}) == 3
        # So long that it is not over when the engine is killed.
        (whole,) = answer(server, "later", 300)
        body = {"model": "later", "prompt": "A river is", "temperature": 0, "ignore_eos": True}
        with (
            server.client() as client,
            client.stream(
                "POST", "/v1/completions", json=body | {"max_tokens": 300, "stream": True}
            ) as reply,
        ):
            lines = (line for line in reply.iter_lines() if line.startswith("data: {"))
            streamed = [next(lines)]
            dead = engine_of(server)
            dead.kill()
            streamed += lines
        pieces = [json.loads(line[6:])["choices"][0]["text"] for line in streamed]
        assert "".join(pieces) == whole["text"]
        wait_for_another_engine(server, dead)
        assert [answer(server, name) for name in names] == before


def test_an_adapter_whose_file_is_gone_is_served_no_longer(tmp_path: Path) -> None:
    """The next engine has the others, and says which one is missing."""
    model = write_random_model(tmp_path / "model", LAYERS)
    gone, stays = (
        write_random_adapter(tmp_path / name, seed, LAYERS)
        for seed, name in enumerate(("gone", "stays"))
    )
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    loras = ("--lora", f"gone={gone}", "--lora", f"stays={stays}")
    with serve(model, tmp_path, "--config", str(tmp_path / "settings.yaml"), *loras) as server:
        before = [answer(server, name) for name in (server.model, "stays")]
        answer(server, "gone")
        shutil.rmtree(gone)
        dead = engine_of(server)
        dead.kill()
        wait_for_another_engine(server, dead)
        assert [answer(server, name) for name in (server.model, "stays")] == before
        with server.client() as client:
            listed = [entry["id"] for entry in client.get("/v1/models").json()["data"]]
            asked = client.post("/v1/completions", json={"model": "gone", "prompt": "A river is"})
        assert listed == [server.model, "stays"]
        assert (asked.status_code, asked.json()["error"]["code"]) == (404, "model_not_found")
        assert "adapter gone is gone: " in server.program.stderr


def test_what_replaced_an_adapter_in_place_outlives_the_engine(tmp_path: Path) -> None:
    """One path, other files, and an answer that runs with the old ones: the next engine finds the
    new ones for both loads, and lets go of neither."""
    model = write_random_model(tmp_path / "model", LAYERS)
    place = write_random_adapter(tmp_path / "sql", 0, LAYERS)
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    options = ("--config", str(tmp_path / "settings.yaml"), "--lora", f"sql={place}")
    body = {"model": "sql", "prompt": "A river is", "ignore_eos": True, "max_tokens": 3000}
    with serve(model, tmp_path, *options, "--allow-runtime-adapters") as server:
        old = answer(server, "sql")
        with (
            server.client() as client,
            client.stream("POST", "/v1/completions", json=body | {"stream": True}) as reply,
        ):
            lines = (line for line in reply.iter_lines() if line.startswith("data: {"))
            next(lines)
            write_random_adapter(place, 1, LAYERS)
            load = {"lora_name": "sql", "lora_path": str(place), "load_inplace": True}
            with server.client() as other:
                loaded = other.post("/v1/load_lora_adapter", json=load)
            assert loaded.status_code == 200, loaded.text
            new = answer(server, "sql")
            assert new != old
            dead = engine_of(server)
            dead.kill()
            last = json.loads(list(lines)[-1][6:])
        assert "adapter" in last["error"]["message"]
        wait_for_another_engine(server, dead)
        assert [answer(server, "sql") for _ in range(2)] == [new, new]
