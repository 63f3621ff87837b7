"""The tokenizer of a model file across starts: found again, and never another file's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from fakes.gguf_file import STRING, GgufFile, array_value, string_value, text, u32, u32_value
from fakes.small_vocabularies import byte_level
from headrace.engine.model_text import load_tokenizer
from headrace.text.tokenizer import Tokenizer
from headrace.text.tokenizer_cache import cache_path
from headrace.weights.gguf import GgufReader

TEXT = "the quick brown fox sleeps"
I32 = 5


@pytest.fixture(scope="module")
def metadata() -> dict[str, object]:
    return byte_level("gpt-2")[0]


def write(path: Path, metadata: dict[str, object]) -> Path:
    keys = [("general.architecture", string_value("llama"))]
    keys += [(name, _value(value)) for name, value in metadata.items()]
    path.write_bytes(GgufFile(list(keys)).to_bytes())
    return path


def _value(value: object) -> bytes:
    if isinstance(value, str):
        return string_value(value)
    if isinstance(value, int):
        return u32_value(value)
    assert isinstance(value, Sequence)
    if isinstance(value[0], str):
        return array_value(STRING, [text(item) for item in value])
    return array_value(I32, [u32(item) for item in value])


def start(path: Path, cache_dir: Path | None) -> list[int]:
    """The ids of a text, as a start with this file would give them."""
    reader = GgufReader(path)
    tokenizer = load_tokenizer(reader, cache_dir)
    reader.close()
    return tokenizer.encode(TEXT)


def other(metadata: dict[str, object]) -> dict[str, object]:
    """Metadata that differs in the order of tokens alone: as many bytes, other ids."""
    tokens = list(metadata["tokenizer.ggml.tokens"])  # type: ignore[call-overload]
    tokens[256:350] = tokens[349:255:-1]
    return metadata | {"tokenizer.ggml.tokens": tokens}


def test_a_second_start_takes_what_the_first_built(
    metadata: dict[str, object], tmp_path: Path
) -> None:
    path, cache = write(tmp_path / "a.gguf", metadata), tmp_path / "cache"
    first = start(path, cache)
    (built,) = cache.iterdir()
    # Another tokenizer under this file's key: only a start that reads the cache answers with it.
    reader = GgufReader(path)
    assert built == cache_path(cache, reader.metadata_digest())
    built.unlink()
    Tokenizer.from_gguf(other(metadata), cache, reader.metadata_digest())
    reader.close()
    assert start(path, cache) == start(write(tmp_path / "b.gguf", other(metadata)), None) != first


def test_a_moved_file_finds_its_tokenizer(metadata: dict[str, object], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = start(write(tmp_path / "a.gguf", metadata), cache)
    (built,) = cache.iterdir()
    time_ns = built.stat().st_mtime_ns
    (tmp_path / "a.gguf").rename(tmp_path / "b.gguf")
    assert start(tmp_path / "b.gguf", cache) == first
    assert [path.stat().st_mtime_ns for path in cache.iterdir()] == [time_ns]


def test_a_file_that_is_replaced_is_built_anew(metadata: dict[str, object], tmp_path: Path) -> None:
    """Also when path, size and time are those of the file before."""
    path, cache = write(tmp_path / "a.gguf", metadata), tmp_path / "cache"
    before = path.stat()
    first = start(path, cache)
    write(path, other(metadata))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert start(path, cache) == start(path, None) != first
    assert len(list(cache.iterdir())) == 2


def test_two_files_keep_their_own(metadata: dict[str, object], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    one = write(tmp_path / "one.gguf", metadata)
    two = write(tmp_path / "two.gguf", other(metadata))
    apart = [start(one, None), start(two, None)]
    assert apart[0] != apart[1]
    for _ in range(2):
        assert [start(one, cache), start(two, cache)] == apart


def test_without_a_folder_nothing_is_kept(metadata: dict[str, object], tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", metadata)
    start(path, None)
    assert list(tmp_path.iterdir()) == [path]


def facts(tokenizer: Tokenizer) -> tuple[object, ...]:
    return (
        tokenizer.vocab_size,
        tokenizer.bos_token_id,
        tokenizer.eos_token_ids,
        tokenizer.special_tokens,
        tokenizer.chat_template,
        tokenizer.adds_bos,
    )


def test_the_facts_come_back_too(metadata: dict[str, object], tmp_path: Path) -> None:
    """Damage to them is noticed like damage to the tokenizer."""
    told = metadata | {
        "tokenizer.chat_template": "{{ messages }}",
        "tokenizer.ggml.eos_token_id": 7,
    }
    path, cache = write(tmp_path / "a.gguf", told), tmp_path / "cache"
    reader = GgufReader(path)
    built = facts(load_tokenizer(reader, cache))
    assert 7 in built[2] and built[4] == "{{ messages }}"
    assert facts(load_tokenizer(reader, cache)) == built
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole.replace(b"{{ messages }}", b"{{ massages }}", 1))
    assert facts(load_tokenizer(reader, cache)) == built
    assert kept.read_bytes() == whole
    reader.close()
