"""`headrace serve` with two real models: loaded when asked for, unloaded, reloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from programs import eventually
from served_model import ServedModel, engine_of, serve

from fakes.random_model import write_random_model

PROMPT = "1, 2, 3,"


def test_two_models_in_one_server(qwen05_path: Path, gemma_path: Path, tmp_path: Path) -> None:
    options = (str(gemma_path), "--memory", "3GiB", "--max-model-len", "512")
    with serve(qwen05_path, tmp_path, *options) as server, server.client() as http:
        cards = http.get("/v1/models").json()["data"]
        names = [model["id"] for model in cards]
        assert len(names) == 2
        written = [int(path.stat().st_mtime) for path in (qwen05_path, gemma_path)]
        assert [model["created"] for model in cards] == written

        def ask(name: str) -> str:
            body = {"model": name, "prompt": PROMPT, "max_tokens": 6, "temperature": 0}
            answer = http.post("/v1/completions", json=body)
            assert answer.status_code == 200, answer.text
            return str(answer.json()["choices"][0]["text"])

        def is_asleep(name: str) -> bool:
            answer = http.get("/is_sleeping", params={"model": name}).json()
            return bool(answer["is_sleeping"])

        assert [is_asleep(name) for name in names] == [False, True]
        first = [ask(name) for name in names]
        assert all(text.startswith(" 4, 5") for text in first)
        assert http.post("/sleep", params={"model": names[0]}).status_code == 200
        assert [is_asleep(name) for name in names] == [True, False]
        assert http.post(f"/v1/models/{names[1]}/reload").status_code == 200
        assert [ask(name) for name in names] == first
        assert [card.pop("status") for card in cards] == ["ready", "unloaded"]
        again = http.get("/v1/models").json()["data"]
        assert again == [card | {"status": "ready"} for card in cards]
        text = http.get("/metrics").text
        for name in names:
            assert f'vllm:generation_tokens_total{{engine="0",model_name="{name}"}} 12.0' in text


@pytest.fixture(scope="module")
def two_small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    folder = tmp_path_factory.mktemp("two")
    first, second = (write_random_model(folder / name, 2) for name in ("alpha", "beta"))
    options = (str(second), "--memory", "1GiB", "--max-model-len", "512", "--max-num-seqs", "4")
    with serve(first, folder, *options) as server:
        yield server


def small_answers(http: httpx.Client) -> list[str]:
    body = {"prompt": "A river", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    asked = [http.post("/v1/completions", json=body | {"model": n}) for n in ("alpha", "beta")]
    return [str(answer.json()["choices"][0]["text"]) for answer in asked]


def test_orders_in_any_order_at_once_leave_two_models_that_answer(two_small: ServedModel) -> None:
    """Each beside each, while engines come and go."""
    server = two_small
    with server.client() as http, ThreadPoolExecutor(3) as threads:

        def give(path: str, **query: str) -> Callable[[], httpx.Response]:
            def send() -> httpx.Response:
                with server.client() as client:
                    return client.post(path, params=query)

            return send

        comings = (
            give("/sleep", model="alpha"),
            give("/wake_up", model="alpha"),
            give("/v1/models/beta/reload"),
        )
        orders = (
            give("/pause", mode="wait"),
            give("/pause", model="beta", mode="abort"),
            give("/reset_prefix_cache"),
            give("/resume"),
        )
        expected = small_answers(http)
        for come_or_go in comings:
            for place, order in enumerate(orders):
                given = (come_or_go, order, orders[place - 1])
                answers = [threads.submit(send) for send in given]
                for answer in answers:
                    assert answer.result().status_code == 200, answer.result().text
                assert http.post("/resume").json() == {"status": "resumed"}
        assert http.get("/is_paused").json() == {"is_paused": False}
        assert small_answers(http) == expected
        assert http.get("/health").status_code == 200


def test_each_model_has_a_health_of_its_own(two_small: ServedModel) -> None:
    server = two_small
    with server.client() as http:

        def health(**query: str) -> tuple[int, str]:
            answer = http.get("/health", params=query)
            body = answer.json()
            return answer.status_code, body.get("status") or body["error"]["message"]

        def statuses() -> dict[str, str]:
            return {card["id"]: card["status"] for card in http.get("/v1/models").json()["data"]}

        small_answers(http)
        ready = (200, "ready")
        assert (health(model="alpha"), health(model="beta"), health()) == (ready,) * 3
        assert http.post("/pause", params={"model": "beta"}).status_code == 200
        status, text = health(model="beta")
        assert (status, text.startswith("The model beta is paused: ")) == (503, True)
        assert (health(model="alpha"), health()) == (ready, ready)
        assert statuses() == {"alpha": "ready", "beta": "paused"}
        assert http.get("/v1/models/beta").json()["status"] == "paused"
        assert http.get("/ping", params={"model": "beta"}).status_code == 503
        # Paused it stays, also without an engine; then a request would have it loaded.
        assert http.post("/sleep", params={"model": "beta"}).status_code == 200
        assert health(model="beta")[0] == 503
        assert http.post("/resume").status_code == 200
        assert (health(model="beta"), statuses()["beta"]) == (ready, "unloaded")
        status, text = health(model="bet")
        assert (status, "Did you mean beta?" in text) == (404, True)
        assert http.get("/health?model=alpha&model=beta").status_code == 400


def test_a_model_whose_engine_is_given_up_is_seen_beside_another(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("engine: {max_restarts: 0}\n")
    first, second = (write_random_model(tmp_path / name, 2) for name in ("alpha", "beta"))
    options = (str(second), "--memory", "1GiB", "--config", str(tmp_path / "settings.yaml"))
    with serve(first, tmp_path, *options) as server, server.client() as http:
        engine_of(server).kill()
        eventually(
            lambda: http.get("/health", params={"model": "alpha"}).status_code == 503, "seen"
        )
        assert http.post("/wake_up", params={"model": "beta"}).status_code == 200
        found = [http.get("/health", params={"model": name}) for name in ("alpha", "beta")]
        assert [answer.status_code for answer in found] == [503, 200]
        assert "The model alpha is dead" in found[0].text
        assert http.get("/health").status_code == 200
        # An order to all reaches the other one, and the dead one can be replaced.
        refused = http.post("/pause", params={"mode": "wait"})
        assert (refused.status_code, "SIGKILL" in refused.text) == (503, True)
        assert http.get("/health", params={"model": "beta"}).status_code == 503
        assert http.post("/resume", params={"model": "beta"}).status_code == 200
        assert http.post("/v1/models/alpha/reload").status_code == 200
        assert http.post("/resume").status_code == 200
        assert len(small_answers(http)) == 2
        assert http.get("/health", params={"model": "alpha"}).status_code == 200
