"""Every tensor of the real models, bit for bit, and their metadata; the gguf package is the oracle.

The package's reader takes 15 s for a file, nearly all of it for the tokenizer's arrays, which it
reads item by item. `QuickOracle` steps over those; one slow test reads them in full.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from headrace.weights.gguf import GgufReader
from headrace.weights.names import sources, unread_names

CHUNK_WEIGHTS = 1 << 20
LONG_ARRAY = 1000


class QuickOracle(gguf.GGUFReader):
    """The package's reader, which keeps the texts of long arrays instead of walking all parts."""

    def __init__(self, path: Path) -> None:
        self.long_texts: list[list[str]] = []
        super().__init__(path)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        item_type, count = (
            self._get(orig_offs, np.uint32)[0],
            self._get(orig_offs + 4, np.uint64)[0],
        )
        if raw_type != gguf.GGUFValueType.ARRAY or count < LONG_ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        position = orig_offs + 12
        if item_type != gguf.GGUFValueType.STRING:
            width = self.gguf_scalar_to_np[gguf.GGUFValueType(item_type)]().itemsize
            return 12 + int(count) * width, [], [], [gguf.GGUFValueType.ARRAY]
        raw, texts = memoryview(self.data), []
        for _ in range(count):
            length = int.from_bytes(raw[position : position + 8], "little")
            texts.append(str(raw[position + 8 : position + 8 + length], "utf-8"))
            position += 8 + length
        self.long_texts.append(texts)
        return position - orig_offs, [], [], [gguf.GGUFValueType.ARRAY]


def check_tensor(reader: GgufReader, theirs: gguf.ReaderTensor) -> int:
    """Compare all weights, in chunks of rows; return how many."""
    ours = reader.tensor(theirs.name)
    assert ours.format.ggml_type == theirs.tensor_type
    assert ours.shape == tuple(reversed(theirs.shape.tolist()))
    their_rows = theirs.data.reshape(ours.num_rows, -1).view(np.uint8)
    step = max(1, CHUNK_WEIGHTS // ours.shape[-1])
    for start in range(0, ours.num_rows, step):
        indices = np.arange(start, min(start + step, ours.num_rows))
        expected = gguf.quants.dequantize(their_rows[indices], theirs.tensor_type)
        actual = ours.dequantize_rows(indices)
        assert np.array_equal(actual.view(np.uint32), expected.view(np.uint32)), theirs.name
    return int(theirs.n_elements)


def check_file(path: Path, num_weights: int) -> None:
    reader, oracle = GgufReader(path), QuickOracle(path)
    assert set(reader.names()) == {tensor.name for tensor in oracle.tensors}
    long_texts = iter(oracle.long_texts)
    for key, field in oracle.fields.items():
        if key.startswith("GGUF."):
            continue
        value = reader.metadata[key]
        if field.data:
            assert value == field.contents(), key
        elif isinstance(value, list) and isinstance(value[0], str):
            assert value == next(long_texts), key
    assert next(long_texts, None) is None
    with ThreadPoolExecutor(2) as threads:
        counts = threads.map(lambda tensor: check_tensor(reader, tensor), oracle.tensors)
        assert sum(counts) == num_weights


def test_qwen_05b(qwen05_path: Path) -> None:
    check_file(qwen05_path, 630_167_424)


def test_gemma_270m(gemma_path: Path) -> None:
    check_file(gemma_path, 268_098_176)


@pytest.mark.slow
def test_qwen_15b(qwen15_path: Path) -> None:
    check_file(qwen15_path, 1_777_088_000)


@pytest.mark.slow
def test_all_metadata_through_the_package_s_own_reader(gemma_path: Path) -> None:
    reader, oracle = GgufReader(gemma_path), gguf.GGUFReader(gemma_path)
    for key in reader.metadata:
        assert reader.metadata[key] == oracle.fields[key].contents(), key


@pytest.mark.parametrize("model", ["qwen05_path", "qwen15_path", "gemma_path"])
def test_every_tensor_of_a_real_model_has_a_name(
    model: str, request: pytest.FixtureRequest
) -> None:
    reader = GgufReader(request.getfixturevalue(model))
    num_layers = reader.metadata[f"{reader.architecture}.block_count"]
    assert isinstance(num_layers, int)
    wanted = sources(reader.architecture, "gguf", num_layers, reader.metadata)
    assert unread_names(reader, wanted) == []
    absent = {name for name, source in wanted.items() if source.name not in reader.names()}
    assert absent <= {"head", "rope_freqs", "rope_factors_long", "rope_factors_short"}
