"""Linears: packing is lossless, integers give the same bits everywhere, floats are close."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest

from headrace.ops.cpu.cpu_ops import CpuOps
from headrace.ops.reference.canonical_linear import canonical_linear, fma
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.quantize import quantize
from headrace.weights.weight_reader import open_weights
from kernels.conftest import make_cpu_ops
from kernels.errors import largest_error, rms_error
from kernels.matmul_cases import (
    ACTIVATION_KINDS,
    ACTIVATION_RMS_ERROR,
    FLOAT_FORMATS,
    FLOAT_WEIGHT_ERROR,
    INTEGER_FORMATS,
    ROW_COUNTS,
    activations,
    gaussian_weight,
    random_blocks,
    shapes_of,
)

# -- packing -------------------------------------------------------------------------------------


def assert_packed_exactly(ops: CpuOps, tensor: QuantTensor) -> None:
    """unpack(pack(x)) has the integers and the exact scales of x."""
    q, zero, scale, minimum = ops.pack_linear([tensor]).unpack()
    stored = tensor.integers()
    np.testing.assert_array_equal(
        q.astype(np.int16) - zero[:, None].astype(np.int16), stored.q - stored.zero
    )
    scales = np.repeat(stored.d.astype(np.float32), tensor.format.block_size // 16, axis=1)
    if stored.sc is not None:
        scales = scales * np.repeat(stored.sc.astype(np.float32), stored.group_size // 16, axis=1)
    np.testing.assert_array_equal(scale, scales)
    minima = np.zeros_like(minimum)
    if stored.m is not None:
        minima = -stored.m.astype(np.float32)
    if stored.dmin is not None and stored.mn is not None:
        minima = np.repeat(stored.dmin.astype(np.float32), 8, axis=1) * stored.mn
    np.testing.assert_array_equal(minimum, minima)


@pytest.mark.parametrize("name", INTEGER_FORMATS)
def test_packing_is_lossless(name: str, rng: np.random.Generator) -> None:
    ops = make_cpu_ops("generic")
    for shape in shapes_of(name):
        assert_packed_exactly(ops, random_blocks(rng, name, shape))


@pytest.mark.parametrize("model", ["qwen05_path", "qwen15_path", "gemma_path"])
def test_packing_real_models_is_lossless(model: str, request: pytest.FixtureRequest) -> None:
    """Every matrix of a layer in every format mix, and 512 rows of the large tables."""
    path: Path = request.getfixturevalue(model)
    ops = make_cpu_ops("generic")
    reader = open_weights(path)
    seen: set[tuple[str, str]] = set()
    for name in reader.names():
        tensor = reader.tensor(name)
        kind = (name.split(".")[-2], tensor.format.name)
        if len(tensor.shape) != 2 or not tensor.format.is_quantized or kind in seen:
            continue
        seen.add(kind)
        assert_packed_exactly(ops, tensor.rows(0, min(512, tensor.shape[0])))
    assert len(seen) > 5
    reader.close()


@pytest.mark.parametrize("name", ["f32", "f16", "bf16"])
def test_packing_floats_is_lossless(name: str, rng: np.random.Generator) -> None:
    ops = make_cpu_ops("generic")
    for shape in ((16, 32), (50, 33), (1, 7)):
        tensor = gaussian_weight(rng, name, shape)
        unpacked = ops.pack_linear([tensor]).unpack_floats()
        np.testing.assert_array_equal(unpacked, tensor.dequantize())


def test_fused_parts_of_mixed_formats(rng: np.random.Generator) -> None:
    """q, k, v of different formats in one matrix give what they give alone, bias included."""
    ops = make_cpu_ops("generic")
    parts = [gaussian_weight(rng, name, (48, 256)) for name in ("q4_k", "q6_k", "q8_0")]
    bias = QuantTensor.from_array(rng.standard_normal(48).astype(np.float32))
    x = activations(rng, 3, 256)
    fused = ops.linear(x, ops.pack_linear(parts, [bias, None, bias]))
    alone = [
        ops.linear(x, ops.pack_linear([part], [b]))
        for part, b in zip(parts, [bias, None, bias], strict=True)
    ]
    np.testing.assert_array_equal(fused, np.concatenate(alone, axis=1))


@pytest.mark.parametrize("formats", [("q4_k", "q4_k"), ("q4_k", "q6_k"), ("q8_0", "f16")])
@pytest.mark.parametrize("width", [16, 48, 64])
def test_interleaved_gate_and_up(
    formats: tuple[str, str], width: int, exact_ops: ReferenceOps, rng: np.random.Generator
) -> None:
    ops = make_cpu_ops("generic")
    parts = [gaussian_weight(rng, name, (width, 256)) for name in formats]
    x = activations(rng, 2, 256)
    y = ops.linear(x, ops.pack_linear(parts, interleave=True))
    expected = exact_ops.linear(x.astype(np.float64), exact_ops.pack_linear(parts, None, True))
    assert rms_error(y, expected) < ACTIVATION_RMS_ERROR


@pytest.mark.parametrize("formats", [("q4_0", "q8_0"), ("q4_0", "f32"), ("bf16", "f16"), ("q2_k",)])
def test_parts_without_a_common_panel_are_dequantized(
    formats: tuple[str, ...], exact_ops: ReferenceOps, rng: np.random.Generator
) -> None:
    """A first part of 20 rows ends inside a panel; floats and integers have no kernel together."""
    ops = make_cpu_ops("generic")
    parts = [gaussian_weight(rng, name, (20, 256)) for name in formats]
    x = activations(rng, 3, 256)
    packed = ops.pack_linear(parts)
    assert not packed.is_quantized
    expected = exact_ops.linear(x.astype(np.float64), exact_ops.pack_linear(parts))
    assert largest_error(ops.linear(x, packed), expected) < FLOAT_WEIGHT_ERROR


def test_packing_beside_the_caller_gives_the_same_bits(rng: np.random.Generator) -> None:
    """A linear that is asked for at once waits; what it read is let go of when it is packed."""
    names = ("q4_k", "q5_0", "q6_k", "q8_0") * 6
    parts = [random_blocks(rng, name, (512, 2048)) for name in names]
    x = activations(rng, 2, 2048)
    together, alone = make_cpu_ops("generic", 2), make_cpu_ops("generic", 1)
    weights = [together.pack_linear([part]) for part in parts]
    del weights[-2]  # its packing goes on, or has not begun
    del parts[-2]
    last = together.linear(x, weights[-1])
    together.finish_packing()
    for weight, part in zip(weights, parts, strict=True):
        packed = alone.pack_linear([part])
        alone.finish_packing()
        assert weight.is_packed
        assert packed.is_packed
        for found, expected in zip(weight.unpack(), packed.unpack(), strict=True):
            np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(last, alone.linear(x, packed))


def test_what_is_packed_is_let_go_of(rng: np.random.Generator) -> None:
    ops = make_cpu_ops("generic")
    blocks = random_blocks(rng, "q8_0", (64, 64))
    held = weakref.ref(blocks.data)
    weight = ops.pack_linear([blocks])
    del blocks
    ops.finish_packing()
    assert held() is None
    assert weight.is_packed


def test_parts_of_different_depth_are_refused(rng: np.random.Generator) -> None:
    ops = make_cpu_ops("generic")
    parts = [gaussian_weight(rng, "q8_0", (16, depth)) for depth in (64, 96)]
    with pytest.raises(ValueError, match=r"different widths: \[64, 96\]"):
        ops.pack_linear(parts)


# -- integers: equality of bits ------------------------------------------------------------------


@pytest.mark.parametrize("name", INTEGER_FORMATS)
def test_bits_are_the_definition(cpu_ops: CpuOps, name: str, rng: np.random.Generator) -> None:
    """Every instruction set gives the bits that numpy computes by the definition."""
    for shape in shapes_of(name):
        tensor = random_blocks(rng, name, shape)
        bias = rng.standard_normal(shape[0]).astype(np.float32)
        packed = cpu_ops.pack_linear([tensor], [QuantTensor.from_array(bias)])
        for num_rows in (1, 4, 8, 17):
            x = activations(rng, num_rows, shape[1])
            expected = canonical_linear(x, tensor, bias)
            np.testing.assert_array_equal(cpu_ops.linear(x, packed), expected)


@pytest.mark.parametrize("kind", ACTIVATION_KINDS)
@pytest.mark.parametrize("name", ["q4_0", "q4_k", "q6_k", "q8_0"])
def test_bits_of_ugly_rows(cpu_ops: CpuOps, name: str, kind: str, rng: np.random.Generator) -> None:
    tensor = random_blocks(rng, name, (33, 512))
    x = activations(rng, 19, 512, kind)
    expected = canonical_linear(x, tensor)
    np.testing.assert_array_equal(cpu_ops.linear(x, cpu_ops.pack_linear([tensor])), expected)


@pytest.mark.parametrize("name", INTEGER_FORMATS)
def test_a_row_does_not_see_the_batch(cpu_ops: CpuOps, name: str, rng: np.random.Generator) -> None:
    """Row m of any batch has the bits it has alone, whatever kernel the row count selects."""
    shape = shapes_of(name)[-1]
    packed = cpu_ops.pack_linear([random_blocks(rng, name, shape)])
    x = activations(rng, max(ROW_COUNTS), shape[1])
    alone = np.concatenate([cpu_ops.linear(x[m : m + 1], packed) for m in range(len(x))])
    for num_rows in ROW_COUNTS:
        batch = cpu_ops.linear(x[:num_rows], packed)
        assert batch.tobytes() == alone[:num_rows].tobytes(), num_rows


@pytest.mark.parametrize("name", ["q5_0", "q4_k", "q6_k"])
def test_more_rows_than_one_pass(cpu_ops: CpuOps, name: str, rng: np.random.Generator) -> None:
    """More than 512 rows, and more groups than a block of unpacked weights holds."""
    packed = cpu_ops.pack_linear([random_blocks(rng, name, (160, 4352))])
    x = activations(rng, 530, 4352)
    whole = cpu_ops.linear(x, packed)
    for m in (0, 15, 16, 511, 512, 529):
        assert cpu_ops.linear(x[m : m + 1], packed).tobytes() == whole[m].tobytes()


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", "avx512bf16", "amx"])
def test_threads_do_not_matter(isa: str, rng: np.random.Generator) -> None:
    tensor = random_blocks(rng, "q4_k", (400, 512))
    results = set()
    for num_threads in (1, 2, 3, 7):
        ops = make_cpu_ops(isa, num_threads)
        packed = ops.pack_linear([tensor])
        x = activations(np.random.default_rng(5), 21, 512)
        results.add(ops.linear(x, packed).tobytes() + ops.linear(x[:1], packed).tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["q4_k", "q6_k", "q8_0", "f32"])
def test_a_fault_stays_in_its_row(
    cpu_ops: CpuOps, name: str, value: float, rng: np.random.Generator
) -> None:
    """A NaN or an infinity makes its whole row not finite and leaves the neighbours alone."""
    tensor = gaussian_weight(rng, name, (40, 512))
    packed = cpu_ops.pack_linear([tensor])
    for num_rows in (3, 20):
        x = activations(rng, num_rows, 512)
        clean = cpu_ops.linear(x, packed)
        x[1, 77] = value
        y = cpu_ops.linear(x, packed)
        assert not np.isfinite(y[1]).any()
        assert np.delete(y, 1, axis=0).tobytes() == np.delete(clean, 1, axis=0).tobytes()


def test_no_rows(cpu_ops: CpuOps, rng: np.random.Generator) -> None:
    packed = cpu_ops.pack_linear([gaussian_weight(rng, "q4_0", (40, 64))])
    assert cpu_ops.linear(np.zeros((0, 64), np.float32), packed).shape == (0, 40)


def test_wrong_shapes_are_refused(cpu_ops: CpuOps, rng: np.random.Generator) -> None:
    packed = cpu_ops.pack_linear([gaussian_weight(rng, "q4_0", (40, 64))])
    with pytest.raises(ValueError, match="x must be"):
        cpu_ops.linear(np.zeros((1, 32), np.float32), packed)


# -- distance from exact -------------------------------------------------------------------------


@pytest.mark.parametrize("name", INTEGER_FORMATS)
def test_error_of_integer_linears(
    cpu_ops: CpuOps, exact_ops: ReferenceOps, name: str, rng: np.random.Generator
) -> None:
    """Against float64 on dequantized weights and unrounded activations."""
    shape = shapes_of(name)[-1]
    tensor = gaussian_weight(rng, name, shape)
    x = activations(rng, 24, shape[1])
    expected = exact_ops.linear(x.astype(np.float64), exact_ops.pack_linear([tensor]))
    y = cpu_ops.linear(x, cpu_ops.pack_linear([tensor]))
    assert rms_error(y, expected) < ACTIVATION_RMS_ERROR


@pytest.mark.parametrize("name", FLOAT_FORMATS)
def test_float_linears(
    cpu_ops: CpuOps, exact_ops: ReferenceOps, name: str, rng: np.random.Generator
) -> None:
    """Alone and together, on every number of panels that is left of four."""
    depths = (256, 1280) if name == "q2_k" else (1, 7, 33, 256, 1285, 1312)
    for columns, depth in zip((50, 66, 82, 98, 18, 50), depths, strict=False):
        tensor = gaussian_weight(rng, name, (columns, depth))
        packed = cpu_ops.pack_linear([tensor])
        x = activations(rng, 37, depth)
        read = x.astype(np.float64)
        if name == "bf16" and cpu_ops.has_bf16_products and depth % 32 == 0:
            read = quantize(x, "bf16").dequantize().astype(np.float64)
        expected = exact_ops.linear(read, exact_ops.pack_linear([tensor]))
        whole = cpu_ops.linear(x, packed)
        assert largest_error(whole, expected) < FLOAT_WEIGHT_ERROR
        for m in (0, 3, 4, 20, 36):
            assert cpu_ops.linear(x[m : m + 1], packed).tobytes() == whole[m].tobytes()
        for first, last in ((0, 7), (5, 21), (3, 20), (1, 37)):
            some = cpu_ops.linear(x[first:last], packed)
            assert some.tobytes() == whole[first:last].tobytes()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_damaged_rows_of_float_linears_show(
    cpu_ops: CpuOps, value: float, rng: np.random.Generator
) -> None:
    packed = cpu_ops.pack_linear([gaussian_weight(rng, "bf16", (32, 64))])
    x = activations(rng, 20, 64)
    expected = cpu_ops.linear(x, packed)
    x[3, 40] = value
    y = cpu_ops.linear(x, packed)
    assert not np.isfinite(y[3]).any()
    others = np.delete(np.arange(20), 3)
    np.testing.assert_array_equal(y[others], expected[others])


def test_emulated_fma_rounds_once(rng: np.random.Generator) -> None:
    """Where rounding the product first would give another float, the emulation does not."""
    a = np.float32(1) + np.float32(2.0**-12) * rng.integers(1, 4096, 4096).astype(np.float32)
    b = np.float32(1) - np.float32(2.0**-12) * rng.integers(1, 4096, 4096).astype(np.float32)
    c = (-a.astype(np.float64) * b).astype(np.float32)
    exact = a.astype(np.float64) * b + c  # no rounding: the sum cancels
    np.testing.assert_array_equal(fma(a, b, c), exact.astype(np.float32))
    assert np.any(a * b + c != exact)
