"""The hub source, through the real huggingface_hub, against a server that answers as the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fakes.download_site import CONTENT, Site, make_file, sha256
from headrace.core.config import HubConfig
from headrace.hub.huggingface import HuggingFaceSource, list_files
from headrace.hub.model_source import HubFile, SourceFailed

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def repo(*names: str) -> dict[str, Any]:
    siblings = [
        {
            "rfilename": name,
            "size": len(CONTENT),
            "lfs": {"sha256": sha256(CONTENT), "size": len(CONTENT), "pointerSize": 1},
        }
        for name in names
    ]
    return {"id": "owner/repo", "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0}


def names_for(site: Site, config: HubConfig, file: str = "") -> list[str]:
    return [f.name for f in list_files(HubFile("owner/repo", file), config, site.url)]


def test_lists_one_file_with_digest_and_commit(site: Site, config: HubConfig) -> None:
    site.hub["owner/repo"] = repo("a.gguf", "b.gguf")
    (file,) = list_files(HubFile("owner/repo", "b.gguf"), config, site.url)
    assert (file.name, file.size_bytes, file.sha256) == ("b.gguf", len(CONTENT), sha256(CONTENT))
    assert file.sources == (HubFile("owner/repo", "b.gguf", COMMIT),)


def test_a_repository_of_safetensors_is_a_folder(site: Site, config: HubConfig) -> None:
    site.hub["owner/repo"] = repo(
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "pytorch_model.bin",
        "code.py",
    )
    assert names_for(site, config) == ["model.safetensors", "config.json", "tokenizer.json"]


def test_a_repository_with_one_gguf_file_means_it(site: Site, config: HubConfig) -> None:
    site.hub["owner/repo"] = repo("README.md", "only.gguf")
    assert names_for(site, config) == ["only.gguf"]


@pytest.mark.parametrize("file", ["", "q-00001-of-00002.gguf", "q-00002-of-00002.gguf"])
def test_a_split_file_means_all_its_parts(site: Site, config: HubConfig, file: str) -> None:
    parts = ["q-00001-of-00002.gguf", "q-00002-of-00002.gguf"]
    site.hub["owner/repo"] = repo("README.md", *reversed(parts))
    assert names_for(site, config, file) == parts


@pytest.mark.parametrize(
    ("names", "file", "reason"),
    [
        (("a.gguf", "b.gguf"), "", "2 GGUF files; name one. Files: owner/repo/a.gguf, owner"),
        (("a.gguf",), "c.gguf", "has no file 'c.gguf'. Files: owner/repo/a.gguf"),
        (("README.md",), "", "neither safetensors"),
        (("q-00001-of-00002.gguf",), "q-00001-of-00002.gguf", "no file 'q-00002-of-00002.gguf'"),
        (("a.safetensors",), "a.safetensors", "is no GGUF file"),
        (("../../x.gguf",), "", "points outside"),
    ],
)
def test_says_what_to_name_instead(
    names: tuple[str, ...], file: str, reason: str, site: Site, config: HubConfig
) -> None:
    site.hub["owner/repo"] = repo(*names)
    with pytest.raises(SourceFailed) as failure:
        names_for(site, config, file)
    assert reason in failure.value.message


def test_an_unknown_repository(site: Site, config: HubConfig) -> None:
    with pytest.raises(SourceFailed, match="owner/repo is not there, or is private"):
        names_for(site, config)


def test_a_hub_that_cannot_be_reached(config: HubConfig) -> None:
    with pytest.raises(SourceFailed, match="cannot reach"):
        list_files(HubFile("owner/repo", "a.gguf"), config, "http://127.0.0.1:9")


def test_fetches_with_the_token_of_the_user(
    site: Site, config: HubConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    partial = tmp_path / "partial"
    source = HuggingFaceSource(HubFile("owner/repo", "a.gguf"), config, site.url)
    source.fetch(make_file(name="a.gguf"), partial, lambda *_: None)
    assert partial.read_bytes() == CONTENT
    path, headers = site.requests[0]
    assert path == "/owner/repo/resolve/main/a.gguf"
    assert headers["Authorization"] == "Bearer hf_test"
