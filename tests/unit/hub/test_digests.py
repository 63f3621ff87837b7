"""The digest of a model: that of its bytes, asked of the disk once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from headrace.hub.digests import model_digest


class Stopped(Exception):
    pass


def never() -> None:
    raise AssertionError("the file was read again")


def nothing() -> None:
    pass


def test_a_file_has_its_own_digest_and_is_read_once(tmp_path: Path) -> None:
    model, memory = tmp_path / "m.gguf", tmp_path / "home" / "digests.json"
    model.write_bytes(b"weights")
    expected = hashlib.sha256(b"weights").hexdigest()
    assert model_digest(model, memory, nothing) == expected
    assert model_digest(model, memory, never) == expected


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    model, memory = tmp_path / "m.gguf", tmp_path / "digests.json"
    model.write_bytes(b"weights")
    os.utime(model, ns=(1, 1))
    first = model_digest(model, memory, nothing)
    model.write_bytes(b"WEIGHTS")
    assert model_digest(model, memory, nothing) != first


def test_parts_and_folders_are_digested_together(tmp_path: Path) -> None:
    memory = tmp_path / "digests.json"
    names = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "other-00001-of-00002.gguf").write_bytes(b"x")
    lines = "".join(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n" for name in names)
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert model_digest(tmp_path / names[0], memory, nothing) == expected
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("b.safetensors", "config.json"):
        (folder / name).write_bytes(name.encode())
    before = model_digest(folder, memory, nothing)
    (folder / "config.json").write_bytes(b"another")
    assert model_digest(folder, memory, nothing) != before


@pytest.mark.parametrize("damage", ["", "[]", '{"x": 1}', "{"])
def test_a_damaged_memory_is_made_again(tmp_path: Path, damage: str) -> None:
    model, memory = tmp_path / "m.gguf", tmp_path / "digests.json"
    model.write_bytes(b"weights")
    memory.write_text(damage)
    digest = model_digest(model, memory, nothing)
    assert json.loads(memory.read_text())[str(model)]["sha256"] == digest


def test_reading_can_be_stopped(tmp_path: Path) -> None:
    def stop() -> None:
        raise Stopped

    model = tmp_path / "m.gguf"
    model.write_bytes(b"weights")
    with pytest.raises(Stopped):
        model_digest(model, tmp_path / "digests.json", stop)
    assert not (tmp_path / "digests.json").exists()
