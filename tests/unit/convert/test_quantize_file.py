"""Quantizing a file: what is rounded, what is kept, and that other readers see the same model."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize as gguf_dequantize

from headrace.convert.format_plan import SourceTensor, plan_formats
from headrace.convert.gguf_source import GgufSource
from headrace.convert.quantize_file import Rounding, Written, quantize_file
from headrace.core.errors import InvalidParameter, ModelFileError
from headrace.quant.format import FORMATS
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.quantize import quantize
from headrace.quant.scale_search import search
from headrace.weights.gguf import GgufReader
from headrace.weights.gguf_writer import GgufWriter, KeyValue, TensorPlan

RNG = np.random.default_rng(0)
WIDE, NARROW = 512, 96
SHAPES = {
    "token_embd.weight": (40, WIDE),
    "blk.0.attn_norm.weight": (WIDE,),
    "blk.0.attn_q.weight": (64, WIDE),
    "blk.0.attn_q.bias": (64,),
    "blk.0.attn_output.weight": (64, NARROW),
    "blk.0.ffn_gate_inp.weight": (4, WIDE),
    "blk.0.ffn_gate_exps.weight": (4, 32, WIDE),
    "blk.0.ffn_down.weight": (8, 20),
    "output_norm.weight": (WIDE,),
}
WEIGHTS = {name: RNG.standard_normal(shape, dtype=np.float32) for name, shape in SHAPES.items()}
KEYS: dict[str, KeyValue] = {
    "general.architecture": "llama",
    "general.file_type": 0,
    "tokenizer.ggml.tokens": ["a", "b"],
    "split.count": 1,
}


def model(path: Path, format_name: str = "f32") -> Path:
    tensors = {
        name: quantize(x, format_name if x.ndim > 1 and x.shape[-1] % 32 == 0 else "f32")
        for name, x in WEIGHTS.items()
    }
    plans = [TensorPlan(name, t.format, t.shape) for name, t in tensors.items()]
    with GgufWriter(path, KEYS, plans) as writer:
        for tensor in tensors.values():
            writer.write(tensor)
    return path


def run(source: Path, out: Path, to: str, rounding: Rounding | None = None) -> Written:
    reader = GgufReader(source)
    try:
        given = GgufSource(reader)
        plan = rounding or Rounding(plan_formats(given.tensors, to), facts={"source": "here"})
        return quantize_file(given, plan, out, num_threads=2)
    finally:
        reader.close()


def test_every_tensor_gets_its_format_and_the_values_of_the_search(tmp_path: Path) -> None:
    written = run(model(tmp_path / "a.gguf"), tmp_path / "b.gguf", "q4_k")
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(written.path).tensors}
    formats = {name: tensor.tensor_type.name.lower() for name, tensor in found.items()}
    assert formats == {
        "token_embd.weight": "q6_k",
        "blk.0.attn_norm.weight": "f32",
        "blk.0.attn_q.weight": "q4_k",
        "blk.0.attn_q.bias": "f32",
        "blk.0.attn_output.weight": "q5_0",  # rows of 96 do not fill blocks of 256
        "blk.0.ffn_gate_inp.weight": "f32",  # a router
        "blk.0.ffn_gate_exps.weight": "q4_k",
        "blk.0.ffn_down.weight": "f16",  # nor blocks of 32
        "output_norm.weight": "f32",
    }
    for name, x in WEIGHTS.items():
        theirs = gguf_dequantize(found[name].data, found[name].tensor_type).reshape(x.shape)
        assert np.array_equal(theirs, search(x, formats[name]).dequantize()), name


def test_table_and_head_may_have_a_target_of_their_own() -> None:
    names = ("token_embd.weight", "output.weight", "blk.0.attn_q.weight")
    tensors = [SourceTensor(name, FORMATS["q8_0"], (4, 64)) for name in names]
    assert list(plan_formats(tensors, "q4_0").values()) == ["q8_0", "q8_0", "q4_0"]
    assert list(plan_formats(tensors, "q4_0", "q4_0").values()) == ["q4_0"] * 3
    assert list(plan_formats(tensors, "q4_0", "q5_0").values()) == ["q5_0", "q5_0", "q4_0"]


def test_keys_are_kept_and_say_how_it_was_made(tmp_path: Path) -> None:
    path = run(model(tmp_path / "a.gguf"), tmp_path / "b.gguf", "q8_0").path
    reader = GgufReader(path)
    assert dict(reader.metadata) == {
        "general.architecture": "llama",
        "general.file_type": 7,
        "general.quantization_version": 2,
        "tokenizer.ggml.tokens": ["a", "b"],
        "headrace.quantize.method": "search",
        "headrace.quantize.source": "here",
    }
    reader.close()


def test_a_tensor_of_no_more_bits_stays_byte_for_byte(tmp_path: Path) -> None:
    source = GgufReader(model(tmp_path / "a.gguf", "q5_0"))
    result = GgufReader(run(source.path, tmp_path / "b.gguf", "q5_1").path)
    name = "blk.0.attn_q.weight"
    assert result.tensor(name).format.name == "q5_0"
    assert result.tensor(name).data.tobytes() == source.tensor(name).data.tobytes()
    source.close()
    result.close()


def test_what_was_written_adds_up(tmp_path: Path) -> None:
    written = run(model(tmp_path / "a.gguf"), tmp_path / "b.gguf", "q8_0")
    assert sum(written.num_weights.values()) == sum(x.size for x in WEIGHTS.values())
    assert sum(written.num_bytes.values()) <= written.path.stat().st_size
    assert written.num_bytes["q8_0"] * 32 == written.num_weights["q8_0"] * 34


def test_importance_reaches_its_tensor(tmp_path: Path) -> None:
    name = "blk.0.attn_q.weight"
    columns = np.exp(RNG.standard_normal(WIDE)).astype(np.float32)
    source = model(tmp_path / "a.gguf")
    formats = {n: "q4_k" if n == name else "f32" for n in SHAPES}
    given = Rounding(formats, importance={name: columns})
    reader = GgufReader(run(source, tmp_path / "b.gguf", "q4_k", given).path)
    found: QuantTensor = reader.tensor(name)
    assert np.array_equal(found.data, search(WEIGHTS[name], "q4_k", columns).data)
    assert not np.array_equal(found.data, search(WEIGHTS[name], "q4_k").data)
    reader.close()


def test_weights_that_cannot_be_rounded_leave_no_file(tmp_path: Path) -> None:
    source = tmp_path / "a.gguf"
    bad = QuantTensor.from_array(np.full((2, 64), np.nan, np.float32))
    with GgufWriter(source, KEYS, [TensorPlan("a.weight", bad.format, bad.shape)]) as writer:
        writer.write(bad)
    with pytest.raises(ModelFileError, match=r"a\.weight cannot be stored as q4_0: .*finite"):
        run(source, tmp_path / "b.gguf", "q4_0")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_a_target_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="to is 'q9'; allowed: q4_0, q4_1"):
        plan_formats([], "q9")
    with pytest.raises(InvalidParameter, match="head is 'q9'; allowed: q4_0, q4_1"):
        plan_formats([], "q4_0", "q9")
