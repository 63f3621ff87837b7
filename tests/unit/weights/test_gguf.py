"""The GGUF reader on small files: what it reads, and what it says about damaged ones."""

from __future__ import annotations

import struct
import sys
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from fakes.gguf_file import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U32,
    U64,
    GgufFile,
    array_value,
    string_value,
    tensor_info,
    text,
    u32,
    u32_value,
    u64,
)
from headrace.core.errors import MissingTensor, ModelFileError, UnsupportedFormat
from headrace.quant.format import FORMATS
from headrace.quant.quantize import quantize
from headrace.weights.gguf import GgufReader
from headrace.weights.gguf_cursor import GgufCursor

ARCHITECTURE = ("general.architecture", string_value("llama"))
WEIGHTS = np.random.default_rng(0).standard_normal((6, 512), dtype=np.float32)


def write(tmp_path: Path, file: GgufFile | bytes) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(file if isinstance(file, bytes) else file.to_bytes())
    return path


def test_an_interrupt_while_it_reads_stays_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read that is cut off may still point into the file."""
    path = write(tmp_path, GgufFile([ARCHITECTURE]).add("a", quantize(WEIGHTS, "f32")))
    held = []

    def cut_off(cursor: GgufCursor, *_: object) -> int:
        held.append(memoryview(cursor._buffer))
        raise KeyboardInterrupt

    monkeypatch.setattr(GgufCursor, "number", cut_off)
    with pytest.raises(KeyboardInterrupt):
        GgufReader(path)
    assert held


def test_the_digest_is_of_the_metadata_alone(tmp_path: Path) -> None:
    def digest(name: str, key: str, tensor: str) -> str:
        path = tmp_path / name
        keys = [ARCHITECTURE, ("key", string_value(key))]
        path.write_bytes(GgufFile(keys).add(tensor, quantize(WEIGHTS, "f32")).to_bytes())
        reader = GgufReader(path)
        found = reader.metadata_digest()
        reader.close()
        return found

    one = digest("a.gguf", "value", "tensor")
    assert one == digest("b.gguf", "value", "other name")
    assert one != digest("a.gguf", "eulav", "tensor")


def test_reads_what_the_gguf_package_writes(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    values = {
        "a.u8": (writer.add_uint8, 255), "a.i8": (writer.add_int8, -128),
        "a.u16": (writer.add_uint16, 65535), "a.i16": (writer.add_int16, -32768),
        "a.u32": (writer.add_uint32, 2**32 - 1), "a.i32": (writer.add_int32, -(2**31)),
        "a.u64": (writer.add_uint64, 2**64 - 1), "a.i64": (writer.add_int64, -(2**63)),
        "a.f32": (writer.add_float32, 0.5), "a.f64": (writer.add_float64, 0.1),
        "a.yes": (writer.add_bool, True), "a.no": (writer.add_bool, False),
        "a.text": (writer.add_string, "naïve 水 🚰"),
        "a.texts": (writer.add_array, ["x", "", "水"]), "a.ints": (writer.add_array, [1, -2, 3]),
        "a.floats": (writer.add_array, [0.5, -1.25]), "a.bools": (writer.add_array, [True, False]),
    }  # fmt: skip
    for key, (add, value) in values.items():
        add(key, value)
    tensors = {f"t.{name}": quantize(WEIGHTS, name) for name in FORMATS}
    for name, tensor in tensors.items():
        raw_dtype = gguf.GGMLQuantizationType(tensor.format.ggml_type)
        writer.add_tensor(name, tensor.data, raw_dtype=raw_dtype)
    writer.add_tensor("t.vector", np.arange(7, dtype=np.float32))
    writer.add_tensor("t.experts", np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    reader = GgufReader(path)
    assert (reader.kind, reader.architecture) == ("gguf", "qwen2")
    for key, (_, value) in values.items():
        assert reader.metadata[key] == value, key
        assert type(reader.metadata[key]) is type(value), key
    assert set(reader.metadata) == {"general.architecture", *values}
    assert reader.names() == (*tensors, "t.vector", "t.experts")
    for name, tensor in tensors.items():
        read = reader.tensor(name)
        assert (read.format, read.shape) == (tensor.format, tensor.shape)
        assert np.array_equal(read.data, tensor.data)
    assert np.array_equal(reader.tensor("t.vector").dequantize(), np.arange(7))
    assert np.array_equal(reader.tensor("t.experts").dequantize(), np.arange(24).reshape(2, 3, 4))


def test_version_2_and_other_alignments(tmp_path: Path) -> None:
    file = GgufFile(version=u32(2), alignment=128)
    file.keys.append(("general.alignment", u32_value(128)))
    file.add("a", quantize(WEIGHTS[:1], "q4_0")).add("b", quantize(WEIGHTS, "q8_0"))
    reader = GgufReader(write(tmp_path, file))
    assert np.array_equal(reader.tensor("b").data, quantize(WEIGHTS, "q8_0").data)


def test_nested_arrays_become_nested_lists(tmp_path: Path) -> None:
    inner = [u32(I32) + u64(2) + struct.pack("<2i", 1, -1), u32(STRING) + u64(1) + text("x")]
    file = GgufFile(keys=[ARCHITECTURE, ("nested", array_value(ARRAY, inner))])
    assert GgufReader(write(tmp_path, file)).metadata["nested"] == [[1, -1], ["x"]]


def test_tensors_are_read_only_views_that_outlive_the_reader(tmp_path: Path) -> None:
    tensor = quantize(WEIGHTS, "q6_k")
    reader = GgufReader(write(tmp_path, GgufFile().add("a", tensor)))
    held = reader.tensor("a")
    assert np.shares_memory(held.data, reader.tensor("a").data)
    with pytest.raises(ValueError, match="read-only"):
        held.data[0, 0] = 1
    reader.release()
    assert np.array_equal(held.data, tensor.data)
    reader.close()
    reader.close()
    reader.release()
    assert np.array_equal(held.data, tensor.data)
    with pytest.raises(MissingTensor):
        reader.tensor("a")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm")
def test_release_gives_pages_back(tmp_path: Path) -> None:
    big = np.ones((64, 1 << 17), dtype=np.float32)  # 32 MiB
    reader = GgufReader(write(tmp_path, GgufFile().add("a", quantize(big, "f32"))))
    tensor = reader.tensor("a")

    def shared_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[2]) * 4096

    before = shared_bytes()
    assert int(tensor.data.max()) == 0x80
    after_reading = shared_bytes()
    reader.release()
    assert after_reading - before > 24 << 20
    assert shared_bytes() - before < 8 << 20
    assert int(tensor.data.max()) == 0x80


def test_missing_tensor_names_file_and_tensor(tmp_path: Path) -> None:
    reader = GgufReader(write(tmp_path, GgufFile()))
    with pytest.raises(MissingTensor, match=r"model\.gguf has no tensor 'blk\.0\.attn_q\.weight'"):
        reader.tensor("blk.0.attn_q.weight")


def info(**change: object) -> GgufFile:
    """A file with one sound tensor of 2 x 32 q8_0 weights, but for what is changed."""
    parts = {"name": "a", "dims": [32, 2], "ggml_type": 8, "offset": 0} | change
    return GgufFile(infos=[tensor_info(**parts)], data=bytes(68))  # type: ignore[arg-type]


def with_key(value: bytes, key: str | bytes = "k") -> GgufFile:
    return GgufFile(keys=[ARCHITECTURE, (key, value)])


def nested(depth: int) -> bytes:
    return u32(ARRAY) + (u32(ARRAY) + u64(1)) * (depth - 1) + u32(U32) + u64(1) + u32(7)


TWO_TENSORS = [tensor_info("a", [32], 0, 0), tensor_info("a", [32], 0, 128)]
OVERLAP = [tensor_info("a", [32, 2], 0, 0), tensor_info("b", [32], 0, 128)]
HUGE = 2**64 - 1
# What is wrong -> the file and what the error says of it.
HOSTILE: dict[str, tuple[GgufFile | bytes, str]] = {
    "empty": (b"", "is empty"),
    "short": (b"GGUF" + u32(3), "8 bytes, too few"),
    "magic": (GgufFile(magic=b"GGML"), r"it begins with the bytes 47 47 4d 4c"),
    "version 1": (GgufFile(version=u32(1)), r"version 1 .*versions 2 and 3"),
    "version 4": (GgufFile(version=u32(4)), "version 4"),
    "big-endian": (GgufFile(version=struct.pack(">I", 3)), "big-endian"),
    "tensor count": (GgufFile(num_tensors=HUGE), f"claims {HUGE} tensors"),
    "tensor count beyond the file": (GgufFile(num_tensors=1000), "claims 1000 tensors"),
    "one tensor too many": (GgufFile(infos=info().infos, num_tensors=2), "'' has 0 dimensions"),
    "key count": (GgufFile(num_keys=HUGE), f"claims {HUGE} metadata keys"),
    "no architecture": (GgufFile(keys=[]), "does not name its architecture"),
    "architecture is a number": (
        GgufFile(keys=[("general.architecture", u32_value(1))]),
        "does not name its architecture",
    ),
    "a key twice": (GgufFile(keys=[ARCHITECTURE, ARCHITECTURE]), "a duplicate"),
    "a key without name": (with_key(u32_value(1), ""), "is empty or a duplicate"),
    "a key that is not UTF-8": (with_key(u32_value(1), b"a\xff"), "metadata key 1 is not UTF-8"),
    "a long key": (with_key(u32_value(1), "k" * 65536), "65536 bytes, at most 65535"),
    "a string that is not UTF-8": (with_key(string_value(b"\xc3\x28")), "'k' is not UTF-8"),
    "string length": (with_key(u32(STRING) + u64(HUGE)), f"takes {HUGE} bytes, but the file ends"),
    "value type": (with_key(u32(13) + u64(0)), "value of 'k' has type 13, allowed are 0 to 12"),
    "array item type": (with_key(array_value(99, [])), "items of the value of 'k' have type 99"),
    "array count": (with_key(array_value(U64, [], HUGE)), "the file ends at byte"),
    "string array count": (with_key(array_value(STRING, [], HUGE)), "more than 8388608"),
    "string array cut": (with_key(array_value(STRING, [text("a")], 99)), r"item \d+ of"),
    "string array length": (
        with_key(array_value(STRING, [u64(HUGE), u64(0)])),
        "item 1 of the value of 'k'",
    ),
    "last string of an array": (with_key(array_value(STRING, [u64(50)])), "ends behind the end"),
    "many arrays in an array": (with_key(array_value(ARRAY, [], 1 << 18)), "more than 8388608"),
    "arrays in arrays": (with_key(nested(5)), "nests arrays more than 4 deep"),
    "endless arrays": (with_key(nested(3000)), "nests arrays more than 4 deep"),
    "alignment 0": (with_key(u32_value(0), "general.alignment"), "is 0; allowed: a power"),
    "alignment 24": (with_key(u32_value(24), "general.alignment"), "alignment is 24"),
    "alignment 2 GiB": (with_key(u32_value(1 << 31), "general.alignment"), "is 2147483648"),
    "alignment is text": (with_key(string_value("32"), "general.alignment"), "alignment is '32'"),
    "alignment is true": (with_key(u32(BOOL) + b"\1", "general.alignment"), "alignment is True"),
    "split": (with_key(u32_value(3), "split.count"), "part 1 of 3 .*Give the first part"),
    "split without end": (with_key(u32_value(1 << 31), "split.count"), "allowed: 0 to 1024"),
    "a tensor twice": (GgufFile(infos=TWO_TENSORS, data=bytes(256)), "'a', is unnamed or"),
    "a tensor without name": (info(name=""), "is unnamed or a duplicate"),
    "a tensor name that is not UTF-8": (info(name=b"\xff"), "name of tensor 0 is not UTF-8"),
    "a long tensor name": (info(name="n" * 257), "257 bytes, at most 256"),
    "no dimensions": (info(dims=[]), "0 dimensions|claims 1 tensors"),
    "five dimensions": (info(dims=[32, 1, 1, 1, 1]), "has 5 dimensions, allowed are 1 to 4"),
    "an empty dimension": (info(dims=[32, 0]), r"shape \(0, 32\), and no dimension may be 0"),
    "a product that overflows": (info(dims=[2**62, 2**62, 2**62, 2**62]), "the file ends at byte"),
    "a product that overflows to 0": (info(dims=[32, 2**60, 2**60]), "the file ends at byte"),
    "half a block": (info(dims=[48, 2]), "48 weights, not a multiple of q8_0's block"),
    "an unread type": (info(ggml_type=16), r"tensor 'a': tensor type 16 \(iq2_xxs\)"),
    "an unknown type": (info(ggml_type=2**32 - 1), r"type 4294967295 \(unknown\)"),
    "offset not aligned": (info(offset=33), "offset 33, not a multiple of 32"),
    "offset outside": (info(offset=1 << 40), "'a' takes bytes .*the file ends at byte"),
    "offset that overflows": (info(offset=2**64 - 32), "'a' takes bytes .*the file ends at byte"),
    "data cut": (GgufFile(infos=info().infos, data=bytes(67)), "truncated or damaged: tensor 'a'"),
    "tensors overlap": (GgufFile(infos=OVERLAP, data=bytes(256)), "'a' and 'b' overlap"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_end_in_an_error_that_says_why(tmp_path: Path, case: str) -> None:
    file, message = HOSTILE[case]
    path = write(tmp_path, file)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=message) as caught:
            GgufReader(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in caught.value.message
    assert peak_bytes < 1 << 20, "no claim of the file may size an allocation"


def test_the_sound_file_of_the_hostile_table_is_read(tmp_path: Path) -> None:
    assert GgufReader(write(tmp_path, info())).tensor("a").shape == (2, 32)


@pytest.mark.parametrize("case", ["magic", "version 1", "big-endian", "an unread type"])
def test_what_is_not_damage_is_an_unsupported_format(tmp_path: Path, case: str) -> None:
    with pytest.raises(UnsupportedFormat):
        GgufReader(write(tmp_path, HOSTILE[case][0]))


def test_an_array_with_bad_text_is_reported_when_it_is_read(tmp_path: Path) -> None:
    items = [text("good"), text(b"\xff\xfe")]
    reader = GgufReader(write(tmp_path, with_key(array_value(STRING, items))))
    with pytest.raises(ModelFileError, match="item 1 of 'k' is not UTF-8"):
        reader.metadata["k"]
    assert reader.metadata["general.architecture"] == "llama"


def test_arrays_are_decoded_once_until_they_are_released(tmp_path: Path) -> None:
    values = [struct.pack("<f", value) for value in (0.5, 1.5)]
    reader = GgufReader(write(tmp_path, with_key(array_value(F32, values))))
    first = reader.metadata["k"]
    assert first == [0.5, 1.5]
    assert reader.metadata["k"] is first
    reader.release()
    assert reader.metadata["k"] == first
    with pytest.raises(KeyError):
        reader.metadata["absent"]


def test_a_large_vocabulary_opens_without_being_decoded(tmp_path: Path) -> None:
    tokens = array_value(STRING, [text(f"token {index}") for index in range(100_000)])
    reader = GgufReader(write(tmp_path, with_key(tokens)))
    assert not reader.metadata._lists
    decoded = reader.metadata["k"]
    assert isinstance(decoded, list)
    assert (len(decoded), decoded[-1]) == (100_000, "token 99999")


def test_unreadable_files_are_model_file_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="No such file"):
        GgufReader(tmp_path / "absent.gguf")
    with pytest.raises(ModelFileError, match="Is a directory"):
        GgufReader(tmp_path)


def test_the_writer_of_these_tests_writes_what_the_gguf_package_reads(tmp_path: Path) -> None:
    file = GgufFile(keys=[ARCHITECTURE, ("k", array_value(I32, [u32(5), u32(6)]))])
    path = write(tmp_path, file.add("a", quantize(WEIGHTS, "q5_k")))
    theirs = gguf.GGUFReader(path)
    assert theirs.fields["k"].contents() == [5, 6]
    assert [tensor.name for tensor in theirs.tensors] == ["a"]
    assert np.array_equal(theirs.tensors[0].data, quantize(WEIGHTS, "q5_k").data)


def write_parts(tmp_path: Path, **change: object) -> Path:
    """A model in three parts, as llama-gguf-split writes them; the first has no tensors."""
    for number in range(3):
        keys = [ARCHITECTURE] if number == 0 else []
        for key, value in {"no": number, "count": 3, "tensors.count": 2}.items():
            keys.append((f"split.{key}", u32_value(int(change.get(f"{key} {number}", value)))))  # type: ignore[call-overload]
        file = GgufFile(keys=keys)
        if number:
            file.add(str(change.get(f"name {number}", f"t{number}")), quantize(WEIGHTS, "q8_0"))
        (tmp_path / f"big-0000{number + 1}-of-00003.gguf").write_bytes(file.to_bytes())
    return tmp_path / "big-00001-of-00003.gguf"


def test_a_split_model_is_read_through_its_first_part(tmp_path: Path) -> None:
    reader = GgufReader(write_parts(tmp_path))
    assert (reader.architecture, reader.names()) == ("llama", ("t1", "t2"))
    held = reader.tensor("t2")
    reader.release()
    reader.close()
    assert np.array_equal(held.data, quantize(WEIGHTS, "q8_0").data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name 2": "t1"}, r"-00003-of-00003\.gguf has tensor 't1', which .*-00002-of"),
        ({"tensors.count 0": 3}, r"3 parts hold 2 tensors, and split\.tensors\.count is 3"),
        ({"no 2": 1}, r"-00003-of-00003\.gguf says that it is another part"),
        ({"count 1": 4}, r"-00002-of-00003\.gguf says that it is another part"),
        ({"no 0": 1}, "is part 2 of 3 .* Give the first part"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        GgufReader(write_parts(tmp_path, **change))


def test_a_missing_part_is_named_and_a_later_part_is_not_enough(tmp_path: Path) -> None:
    first = write_parts(tmp_path)
    with pytest.raises(ModelFileError, match=r"is part 2 of 3 .* Give the first part"):
        GgufReader(tmp_path / "big-00002-of-00003.gguf")
    (tmp_path / "big-00003-of-00003.gguf").unlink()
    with pytest.raises(ModelFileError, match=r"big-00003-of-00003\.gguf is not beside it"):
        GgufReader(first)


def test_arrays_are_counted_without_being_decoded(tmp_path: Path) -> None:
    broken = struct.pack("<Q", 1) + b"\xff"  # not UTF-8: decoding raises
    reader = GgufReader(write(tmp_path, with_key(array_value(STRING, [broken, broken]))))
    assert reader.metadata.count("k") == 2
    assert "k" in reader.metadata
    with pytest.raises(ModelFileError, match="UTF-8"):
        reader.metadata["k"]
    with pytest.raises(ModelFileError, match=r"general\.architecture = 'llama'; an array"):
        reader.metadata.count("general.architecture")


@pytest.mark.parametrize(
    "odd", [b"", b"x" * 255, b"x" * 256, b"a\0\0\0\0\0\0\0\0b", b"\0", b"\1\0"]
)
def test_long_arrays_of_strings_end_where_they_end(tmp_path: Path, odd: bytes) -> None:
    """Most strings are passed many at a time; lengths and texts that look like others are not."""
    rng = np.random.default_rng(len(odd))
    values = [b"s%d" % number * (1 + number % 3) for number in range(20_000)]
    for place in (0, 5000, 5001, 19_999, *rng.integers(0, 20_000, 20)):
        values[place] = odd
    file = with_key(array_value(STRING, [text(value) for value in values]))
    file.keys.append(("behind", u32_value(7)))
    reader = GgufReader(write(tmp_path, file))
    assert reader.metadata["behind"] == 7
    assert reader.metadata["k"] == [value.decode() for value in values]


def test_a_long_array_that_is_cut_says_where(tmp_path: Path) -> None:
    strings = [text("token")] * 9000 + [u64(HUGE)]
    with pytest.raises(ModelFileError, match="item 9000 of the value of 'k' ends behind the end"):
        GgufReader(write(tmp_path, with_key(array_value(STRING, strings))))
