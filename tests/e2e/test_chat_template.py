"""`--chat-template FILE`: another template than the model's, in the server and in the settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from served_model import serve

from fakes.random_model import write_random_model

OWN = "{% for m in messages %}{{ m.content }}{% endfor %}"
OTHER = "{% for m in messages %}[{{ m.role }}|{{ m.content }}]{% endfor %}{{ style }}"


@pytest.mark.parametrize("is_setting", [False, True])
def test_a_template_takes_the_place_of_the_models(tmp_path: Path, is_setting: bool) -> None:
    model = write_random_model(tmp_path / "model", num_layers=2, chat_template=OWN)
    # Some editors begin a file with a mark, which is no text of it.
    (tmp_path / "other.jinja").write_text(OTHER, encoding="utf-8-sig")
    options = ["--chat-template", f"{tmp_path}/other.jinja"]
    if is_setting:
        settings = tmp_path / "settings.yaml"
        settings.write_text(f"engine:\n  chat_template: {tmp_path}/other.jinja\n")
        options = ["--config", str(settings)]
    with serve(model, tmp_path, *options) as server, server.client() as client:
        assert client.get("/tokenizer_info").json()["chat_template"] == OTHER
        body = {"model": server.model, "messages": [{"role": "user", "content": "hi"}]}
        variables = {"chat_template_kwargs": {"style": "!"}}
        tokens = client.post("/tokenize", json=body | variables).json()["tokens"]
        shown = client.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
        answer = client.post("/v1/chat/completions", json=body | variables | {"max_tokens": 1})
        body["messages"] = [{"role": "user", "content": "hi", "name": "ann"}]
        named = client.post("/v1/chat/completions", json=body | {"max_tokens": 1})
    assert shown == "[user|hi]!"
    assert answer.json()["usage"]["prompt_tokens"] == len(tokens)
    assert "x-headrace-warnings" not in answer.headers
    assert named.headers["x-headrace-warnings"] == "messages[0].name"
