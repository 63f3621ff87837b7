"""What a name may be, and which of them name the same model."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.core.errors import InvalidParameter
from headrace.hub.catalogue import load_catalogue
from headrace.hub.model_name import ModelName, parse_name, url_file_name

QWEN_FILE = "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"


def parse(text: str) -> ModelName:
    return parse_name(text, load_catalogue())


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("qwen2.5-coder:0.5b", "catalogue", "qwen2.5-coder:0.5b"),
        (" Qwen2.5-Coder ", "catalogue", "qwen2.5-coder:0.5b"),
        (QWEN_FILE, "catalogue", "qwen2.5-coder:0.5b"),
        (
            f"https://huggingface.co/{QWEN_FILE.replace('/qwen', '/blob/main/qwen')}",
            "catalogue",
            "qwen2.5-coder:0.5b",
        ),
        ("owner/repo", "hub", "owner/repo"),
        ("owner/repo/sub/file.gguf", "hub", "owner/repo/sub/file.gguf"),
        ("https://huggingface.co/owner/repo", "hub", "owner/repo"),
        ("https://hf.co/owner/repo/resolve/v2/a.gguf?download=true", "hub", "owner/repo/a.gguf@v2"),
        ("hf.co/owner/repo", "hub", "owner/repo"),
        ("huggingface.co/owner/repo/blob/main/a.gguf", "hub", "owner/repo/a.gguf"),
        ("https://example.com/a.gguf", "url", "https://example.com/a.gguf"),
        ("/no/such/file.gguf", "path", "/no/such/file.gguf"),
        ("./x.gguf", "path", "x.gguf"),
        ("missing.gguf", "path", "missing.gguf"),
        ("nonsense", "unknown", "nonsense"),
        ("owner/../etc", "unknown", "owner/../etc"),
    ],
)
def test_kinds(text: str, kind: str, name: str) -> None:
    parsed = parse(text)
    assert (parsed.kind, parsed.text) == (kind, name)


def test_what_exists_is_a_path_but_the_catalogue_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "repo").mkdir(parents=True)
    (tmp_path / "gemma3:270m").mkdir()
    assert parse("owner/repo").kind == "path"
    assert parse("gemma3:270m").kind == "catalogue"


def test_a_url_may_carry_its_digest() -> None:
    digest = "AB" * 32
    parsed = parse(f"https://example.com/a.gguf#sha256={digest}")
    assert parsed.text == "https://example.com/a.gguf"
    assert parsed.sha256 == digest.lower()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "a\0b",
        "ftp://example.com/x.gguf",
        "https:///x.gguf",
        "https://[x/a.gguf",
        "file://[",
        "x" * 5000,
    ],
)
def test_what_cannot_name_a_model(text: str) -> None:
    with pytest.raises(InvalidParameter) as failure:
        parse(text)
    assert failure.value.param == "model"


def test_url_file_names() -> None:
    assert url_file_name("https://example.com/a/My%20Model.gguf?x=1") == "My Model.gguf"
    for url in (
        "https://e.com/",
        "https://e.com/a.bin",
        "https://e.com/.gguf",
        "https://e.com/%2e%2e%2fx.gguf/..",
    ):
        with pytest.raises(InvalidParameter):
            url_file_name(url)
