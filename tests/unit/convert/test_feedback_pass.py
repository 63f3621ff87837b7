"""Rounding by a text: every matrix of the layers, its products closer than rounded to nearest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from fakes.random_model import write_random_model
from fakes.small_vocabularies import byte_level
from headrace.convert.calibration import WINDOW_TOKENS, linears_of, open_model, run_windows
from headrace.convert.feedback_pass import round_by_text
from headrace.convert.folder_source import FolderSource
from headrace.convert.format_plan import plan_formats
from headrace.convert.observed_ops import ObservedOps
from headrace.ops.table import make_ops
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.quantize import quantize
from headrace.weights.names import sources
from headrace.weights.weight_reader import WeightReader, open_weights

NAMES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
NUM_LAYERS = 2
IDS = np.random.default_rng(1).integers(3, 260, WINDOW_TOKENS + 200).tolist()
OTHERS = np.random.default_rng(2).integers(3, 260, 200).tolist()
# Its share of the error of nearest, in the mean over matrices; measured here and rounded up.
SHARE = 0.9


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeightReader]:
    folder = write_random_model(tmp_path_factory.mktemp("tiny") / "model", num_layers=NUM_LAYERS)
    (folder / "tokenizer.json").write_text(byte_level("qwen2", vocab_size=270)[1].to_str())
    opened = open_weights(folder)
    yield opened
    opened.close()


class Inputs(ObservedOps):
    """What each matrix multiplied."""

    found: dict[int, NDArray[np.float32]]

    def observe(self, x: NDArray[np.float32], weight: object) -> None:
        self.found = {**getattr(self, "found", {}), id(weight): x.copy()}


def rounded_by(reader: WeightReader, device: str, to: str) -> dict[str, QuantTensor]:
    source = FolderSource(reader)
    formats = plan_formats(source.tensors, to)
    seen: list[tuple[int, int, str]] = []

    def report(done: int, total: int, name: str) -> None:
        seen.append((done, total, name))

    found = round_by_text(reader, source, formats, IDS, make_ops(device), 2, report)
    assert [name for _, _, name in seen] == list(found)
    assert [(done, total) for done, total, _ in seen] == [
        (i, len(found)) for i in range(len(found))
    ]
    return found


def test_every_matrix_of_the_layers_is_rounded_and_products_change_less(
    reader: WeightReader,
) -> None:
    rounded = rounded_by(reader, "cpu", "q4_0")
    layers = range(NUM_LAYERS)
    assert set(rounded) == {f"blk.{i}.{name}.weight" for i in layers for name in NAMES}
    source, ops = FolderSource(reader), make_ops("cpu")
    model = open_model(reader, ops)
    observed = Inputs(ops)
    run_windows(model.over(observed), OTHERS)
    places = sources("llama", "gguf", NUM_LAYERS, source.keys())
    shares = []
    for weight, ours in linears_of(model):
        x = observed.found[id(weight)]
        for name in (places[each].name for each in ours):
            exact = source.tensor(name).dequantize()
            assert rounded[name].format.name == "q4_0"
            lost, plain = (
                float(((tensor.dequantize() - exact) @ x.T).var())
                for tensor in (rounded[name], quantize(exact, "q4_0"))
            )
            shares.append(lost / plain)
    assert np.mean(shares) < SHARE
