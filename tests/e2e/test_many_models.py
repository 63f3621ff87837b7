"""`headrace serve` with two real models: loaded when asked for, unloaded, reloaded."""

from __future__ import annotations

from pathlib import Path

from served_model import serve

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
        assert http.get("/v1/models").json()["data"] == cards
        text = http.get("/metrics").text
        for name in names:
            assert f'vllm:generation_tokens_total{{engine="0",model_name="{name}"}} 12.0' in text
