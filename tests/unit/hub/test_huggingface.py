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
        (("a\0.gguf",), "", "points outside"),
    ],
)
def test_says_what_to_name_instead(
    names: tuple[str, ...], file: str, reason: str, site: Site, config: HubConfig
) -> None:
    site.hub["owner/repo"] = repo(*names)
    with pytest.raises(SourceFailed) as failure:
        names_for(site, config, file)
    assert reason in failure.value.message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lfs": {"pointerSize": 1}}, "lfs.sha256 of a.gguf is missing, expected 64"),
        ({"lfs": {"size": 5, "sha256": 7}}, "lfs.sha256 of a.gguf is 7, expected 64"),
        ({"lfs": {"size": 5, "sha256": "X" * 64}}, "lfs.sha256 of a.gguf is 'XXXX"),
        ({"lfs": {"sha256": "0" * 64}, "size": None}, "size of a.gguf is missing, expected a num"),
        ({"lfs": {"sha256": "0" * 64, "size": "5"}, "size": None}, "size of a.gguf is '5'"),
        ({"lfs": "yes"}, "lfs of a.gguf is 'yes', expected an object"),
        ({"lfs": ["sha256"]}, "lfs of a.gguf is ['sha256'], expected an object"),
        ({"lfs": None, "size": "big"}, "size of a.gguf is 'big'"),
        ({"lfs": None, "size": -1}, "size of a.gguf is -1"),
        ({"lfs": None, "size": True}, "size of a.gguf is True"),
        ({"rfilename": None}, "siblings[0].rfilename is missing, expected a file name"),
        ({"rfilename": 5}, "siblings[0].rfilename is 5"),
    ],
)
def test_an_answer_with_a_malformed_file_names_it(
    change: dict[str, Any], reason: str, site: Site, config: HubConfig
) -> None:
    answer = repo("a.gguf")
    answer["siblings"][0] |= change
    site.hub["owner/repo"] = answer
    with pytest.raises(SourceFailed) as failure:
        names_for(site, config, "a.gguf")
    assert failure.value.message.startswith("the hub's answer about owner/repo is malformed: ")
    assert reason in failure.value.message
    assert failure.value.message.endswith("unset it or name another.")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([], "body is [], expected an object"),
        ({}, "siblings is missing, expected a list of files"),
        ({"siblings": {"a.gguf": {}}}, "siblings is {'a.gguf': {}}"),
        ({"siblings": ["a.gguf"]}, "siblings[0] is 'a.gguf', expected an object"),
        ({"siblings": [{"size": 1}]}, "siblings[0].rfilename is missing"),
        ({"siblings": [], "sha": 5}, "sha is 5, expected a commit"),
        (b"<html>Log in to the network", "body is '<html>Log in to the network', expected JSON"),
        (b"[" * 100_000, "expected JSON"),
        (b"\xff\xfe", "expected JSON"),
    ],
)
def test_an_answer_that_is_no_listing(
    answer: object, reason: str, site: Site, config: HubConfig
) -> None:
    site.hub["owner/repo"] = answer
    with pytest.raises(SourceFailed) as failure:
        names_for(site, config, "a.gguf")
    assert "the hub's answer about owner/repo is malformed: " in failure.value.message
    assert reason in failure.value.message


def test_an_answer_may_lack_what_a_pull_does_not_need(site: Site, config: HubConfig) -> None:
    file = {"rfilename": "a.gguf", "lfs": {"sha256": sha256(CONTENT), "size": 5}}
    site.hub["owner/repo"] = {"siblings": [file, {"rfilename": "README.md", "lfs": "?"}]}
    (listed,) = list_files(HubFile("owner/repo", "a.gguf", "v1"), config, site.url)
    assert (listed.size_bytes, listed.sha256) == (5, sha256(CONTENT))
    assert listed.sources == (HubFile("owner/repo", "a.gguf", "v1"),)


def test_a_name_that_the_hub_does_not_allow(site: Site, config: HubConfig) -> None:
    with pytest.raises(SourceFailed, match="repo_id: 'owner/a--b'"):
        list_files(HubFile("owner/a--b", "a.gguf"), config, site.url)


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
