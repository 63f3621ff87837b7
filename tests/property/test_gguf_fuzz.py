"""Whatever bytes a GGUF file holds, it is read or refused: no crash, no unbounded work."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fakes.gguf_file import (
    ARRAY,
    I32,
    STRING,
    U32,
    GgufFile,
    array_value,
    string_value,
    text,
    u32,
    u32_value,
    u64,
)
from headrace.core.errors import ModelFileError
from headrace.quant.quantize import quantize
from headrace.weights.gguf import GgufReader

DEADLINE_MS = 30_000  # the median example takes 1; a loop over a claimed count would never end


def sound_file() -> GgufFile:
    """One of everything: each kind of value, nested arrays, four formats, 1 to 3 axes."""
    rows = np.random.default_rng(0).standard_normal((2, 256), dtype=np.float32)
    nested = [u32(I32) + u64(2) + struct.pack("<2i", 1, -1), u32(STRING) + u64(1) + text("x")]
    file = GgufFile(
        keys=[
            ("general.architecture", string_value("llama")),
            ("general.alignment", u32_value(32)),
            ("llama.block_count", u32_value(2)),
            ("tokens", array_value(STRING, [text(word) for word in ("a", "", "水")])),
            ("types", array_value(U32, [u32(1), u32(2)])),
            ("nested", array_value(ARRAY, nested)),
        ]
    )
    file.add("a", quantize(rows, "q4_k")).add("b", quantize(rows[0], "f32"))
    file.add("c", quantize(rows.reshape(2, 2, 128), "q8_0")).add("d", quantize(rows, "q6_k"))
    return file


SOUND = sound_file().to_bytes()
HEADER_BYTES = len(SOUND) - len(sound_file().data)
# Numbers at the edges of the types a header uses.
EDGES = [0, 1, 2, 31, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**60, 2**63, 2**64 - 1]


def read_all(path: Path) -> bool:
    """Touch everything a reader offers; True if the file was read, False if it was refused."""
    try:
        reader = GgufReader(path)
    except ModelFileError as error:
        assert str(path) in error.message
        return False
    for key in reader.metadata:
        try:
            reader.metadata[key]
        except ModelFileError as error:
            assert "UTF-8" in error.message
    for name in reader.names():
        tensor = reader.tensor(name)
        assert tensor.dequantize().shape == tensor.shape
    reader.close()
    return True


@pytest.fixture(scope="session")
def fuzzed_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "model.gguf"


def test_the_unchanged_file_is_read(fuzzed_path: Path) -> None:
    fuzzed_path.write_bytes(SOUND)
    assert read_all(fuzzed_path)


def test_every_truncation_is_refused(fuzzed_path: Path) -> None:
    for size in range(len(SOUND)):
        fuzzed_path.write_bytes(SOUND[:size])
        assert not read_all(fuzzed_path), f"cut to {size} bytes"


def test_every_byte_of_the_header_may_be_wrong(fuzzed_path: Path) -> None:
    outcomes = set()
    for position in range(HEADER_BYTES):
        for flip in (0x01, 0x80, 0xFF):
            changed = bytearray(SOUND)
            changed[position] ^= flip
            fuzzed_path.write_bytes(changed)
            outcomes.add(read_all(fuzzed_path))
    assert outcomes == {True, False}


edge_numbers = st.tuples(
    st.integers(0, HEADER_BYTES - 8), st.sampled_from(EDGES).map(lambda n: struct.pack("<Q", n))
)
random_bytes = st.tuples(st.integers(0, len(SOUND)), st.binary(min_size=1, max_size=16))


@settings(max_examples=400, deadline=DEADLINE_MS)
@given(st.lists(st.one_of(edge_numbers, random_bytes), min_size=1, max_size=6))
def test_overwritten_bytes(fuzzed_path: Path, patches: list[tuple[int, bytes]]) -> None:
    changed = bytearray(SOUND)
    for position, patch in patches:
        changed[position : position + len(patch)] = patch
    fuzzed_path.write_bytes(changed)
    read_all(fuzzed_path)


@settings(max_examples=300, deadline=DEADLINE_MS)
@given(
    st.lists(
        st.tuples(st.integers(0, HEADER_BYTES), st.integers(0, 64), st.binary(max_size=64)),
        min_size=1,
        max_size=4,
    )
)
def test_bytes_cut_out_and_put_in(fuzzed_path: Path, splices: list[tuple[int, int, bytes]]) -> None:
    changed = SOUND
    for position, num_cut, inserted in splices:
        changed = changed[:position] + inserted + changed[position + num_cut :]
    fuzzed_path.write_bytes(changed)
    read_all(fuzzed_path)


@settings(max_examples=200, deadline=DEADLINE_MS)
@given(st.binary(max_size=512))
@example(b"\0" * 512)
@example(b"\xff" * 512)
def test_noise_after_the_magic(fuzzed_path: Path, noise: bytes) -> None:
    fuzzed_path.write_bytes(b"GGUF" + u32(3) + noise)
    assert not read_all(fuzzed_path)
