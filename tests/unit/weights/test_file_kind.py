"""What a file is that is no model."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from headrace.core.errors import UnsupportedFormat
from headrace.weights.file_kind import SHOWN_BYTES, describe_file
from headrace.weights.weight_reader import open_weights


def saved_by_numpy(path: Path) -> bytes:
    np.savez(path, x=np.zeros(3))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n", "is a PNG image"),
        (json.dumps({"a": 1}).encode(), "is JSON"),
        (json.dumps([1]).encode(), "is JSON"),
        (save({"x": np.zeros(3, np.float32)}), "is one safetensors file"),
        (pickle.dumps([1], protocol=2), "is a pickle"),
        (b"<!doctype html><title>404</title>", "is a page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS"),
        (b"Hello.\nMore.", 'begins with the text "Hello."'),
        # Cut in the middle of a letter.
        (b"x" * (SHOWN_BYTES - 1) + "ö".encode(), f'begins with the text "{"x" * 39}"'),
        (b"\x00\x01\x02\x03\x04", "begins with the bytes 00 01 02 03"),
    ],
)
def test_a_file_is_told_in_words(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(UnsupportedFormat, match="is not a model that headrace reads") as refused:
        open_weights(path)
    assert f"it {words}" in refused.value.message
    assert describe_file(content[:SHOWN_BYTES]).startswith(words)


def test_a_zip_archive_is_one(tmp_path: Path) -> None:
    assert "zip archive" in describe_file(saved_by_numpy(tmp_path / "x.npz")[:SHOWN_BYTES])
