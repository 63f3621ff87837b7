"""The GGUF writer: what the gguf package and our own reader read back, and what it refuses."""

from __future__ import annotations

import resource
from pathlib import Path

import gguf
import numpy as np
import pytest

from headrace.quant.format import FORMATS
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.quantize import quantize
from headrace.weights.gguf import GgufReader
from headrace.weights.gguf_writer import ALIGNMENT, GgufWriter, KeyValue, RawValue, TensorPlan

KEYS: dict[str, KeyValue] = {
    "general.architecture": "llama",
    "a.number": 7,
    "a.large": 1 << 40,
    "a.flag": True,
    "a.ratio": 0.5,
    "a.words": ["ä", "", "b"],
    "a.numbers": [-1, 2, 3],
    "a.ratios": [0.5, 1.5],
}
WEIGHTS = np.random.default_rng(0).standard_normal((3, 512), dtype=np.float32)


def plan_of(name: str, tensor: QuantTensor) -> TensorPlan:
    return TensorPlan(name, tensor.format, tensor.shape)


def write(path: Path, keys: dict[str, KeyValue], tensors: dict[str, QuantTensor]) -> Path:
    plans = [plan_of(name, tensor) for name, tensor in tensors.items()]
    with GgufWriter(path, keys, plans) as writer:
        for tensor in tensors.values():
            writer.write(tensor)
    return path


def all_formats() -> dict[str, QuantTensor]:
    tensors = {f"of.{name}": quantize(WEIGHTS, name) for name in FORMATS}
    odd = np.arange(5, dtype=np.float32)  # 20 bytes: what follows must be padded
    return {"odd": QuantTensor.from_array(odd), **tensors}


def test_the_gguf_package_reads_keys_types_shapes_and_bytes(tmp_path: Path) -> None:
    tensors = all_formats()
    reader = gguf.GGUFReader(write(tmp_path / "m.gguf", KEYS, tensors))
    for key, value in KEYS.items():
        assert reader.get_field(key).contents() == value, key
    assert reader.get_field("a.number").types == [gguf.GGUFValueType.UINT32]
    assert reader.get_field("a.large").types == [gguf.GGUFValueType.UINT64]
    assert [tensor.name for tensor in reader.tensors] == list(tensors)
    for found in reader.tensors:
        ours = tensors[found.name]
        assert found.tensor_type.name.lower() == ours.format.name
        assert tuple(reversed(found.shape.tolist())) == ours.shape
        assert found.data_offset % ALIGNMENT == 0
        assert found.data.tobytes() == ours.data.tobytes()


def test_our_reader_reads_it_and_copies_keys_byte_for_byte(tmp_path: Path) -> None:
    first = GgufReader(write(tmp_path / "a.gguf", KEYS, all_formats()))
    raw: dict[str, KeyValue] = {k: RawValue(data) for k, data in first.raw_metadata().items()}
    raw["general.alignment"] = 64  # of another file; ours is always 32
    second = GgufReader(write(tmp_path / "b.gguf", raw, all_formats()))
    assert dict(second.metadata) == dict(first.metadata) == KEYS
    assert second.metadata_digest() == first.metadata_digest()
    for name, tensor in all_formats().items():
        assert second.tensor(name).data.tobytes() == tensor.data.tobytes()
    first.close()
    second.close()


@pytest.mark.parametrize("is_failing", [True, False])
def test_a_file_that_is_not_whole_never_appears(tmp_path: Path, is_failing: bool) -> None:
    path, tensors = tmp_path / "m.gguf", all_formats()
    plans = [plan_of(name, tensor) for name, tensor in tensors.items()]
    if is_failing:
        with pytest.raises(KeyboardInterrupt), GgufWriter(path, KEYS, plans):
            raise KeyboardInterrupt
    else:
        with GgufWriter(path, KEYS, plans) as writer:
            writer.write(tensors["odd"])
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_the_index_does_not_name_is_refused(tmp_path: Path) -> None:
    wanted = quantize(WEIGHTS, "q4_0")
    with GgufWriter(tmp_path / "m.gguf", KEYS, [plan_of("a", wanted)]) as writer:
        with pytest.raises(ValueError, match=r"a is q4_0 \(3, 512\).*not q8_0"):
            writer.write(quantize(WEIGHTS, "q8_0"))
        writer.write(wanted)
        with pytest.raises(ValueError, match="has them all"):
            writer.write(wanted)


@pytest.mark.parametrize(
    ("value", "says"), [([], "empty array"), ([1, "a"], "int, str"), (-1, "2\\*\\*64")]
)
def test_values_that_gguf_cannot_hold_are_refused(
    tmp_path: Path, value: KeyValue, says: str
) -> None:
    with pytest.raises(ValueError, match=f"k: .*{says}"):
        GgufWriter(tmp_path / "m.gguf", {"k": value}, [])
    assert list(tmp_path.iterdir()) == []


def test_keys_are_filled_in_once_the_tensors_are_there(tmp_path: Path) -> None:
    tensor = QuantTensor.from_array(np.arange(6, dtype=np.float32).reshape(2, 3))
    plans = [TensorPlan("a.weight", tensor.format, tensor.shape)]
    path = tmp_path / "a.gguf"
    empty = {"general.architecture": "llama", "x.values": [0.0, 0.0], "x.name": "ab"}
    with GgufWriter(path, empty, plans) as writer:
        writer.write(tensor)
        early = GgufReader(writer.readable())
        assert early.tensor("a.weight").dequantize()[1, 2] == 5
        early.close()
        with pytest.raises(ValueError, match=r"take \d+ bytes, not"):
            writer.replace_keys(empty | {"x.values": [0.5] * 99})
        writer.replace_keys(empty | {"x.values": [0.5, -1.5]})
    reader = GgufReader(path)
    assert list(reader.metadata["x.values"]) == [0.5, -1.5]
    assert reader.tensor("a.weight").data.tobytes() == tensor.data.tobytes()
    reader.close()


@pytest.mark.parametrize("room", [100, 70_000])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, room: int) -> None:
    """Whether it is full at the head, or at what is buffered to the end."""
    tensor = QuantTensor.from_array(np.ones((4096, 16), np.float32))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with (
            pytest.raises(OSError, match="too large"),
            GgufWriter(tmp_path / "m.gguf", KEYS, [plan_of("a", tensor)]) as writer,
        ):
            writer.write(tensor)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
