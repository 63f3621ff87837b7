"""Packed weights and the linears over them: every format, few rows and many."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace.ops.cuda.cuda_ops import CudaOps
from headrace.ops.cuda.float8 import RoundedAct, has_products, quantize_rows
from headrace.ops.cuda.gemv import dequantize
from headrace.ops.cuda.packed_matmul import num_splits
from headrace.ops.cuda.packing import IntegerMatrix, pack_matrix
from headrace.ops.protocol import Activation
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.quant.format import FORMATS
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.quantize import quantize
from kernels.errors import largest_error, rms_error
from kernels.matmul_cases import FLOAT_WEIGHT_ERROR, activations, gaussian_weight, random_blocks

QUANTIZED = tuple(name for name, row in FORMATS.items() if row.is_quantized)
HALF_ERROR = 2e-3
"""Activations and results in float16, 2^-11 each, sums in float32."""

FLOAT8_ROUNDING = 0.05
"""Three bits after the first: 0.03 rms of each activation."""


@pytest.fixture(scope="module")
def ops() -> CudaOps:
    return CudaOps("cpu", torch.float32)


@pytest.fixture(scope="module")
def exact() -> ReferenceOps:
    return ReferenceOps(np.float64)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng(list(request.node.name.encode()))


def expected(exact: ReferenceOps, x: np.ndarray, parts: list, biases=None, interleave=False):
    return exact.linear(x.astype(np.float64), exact.pack_linear(parts, biases, interleave))


@pytest.mark.parametrize("name", QUANTIZED)
def test_packing_is_lossless(ops: CudaOps, rng: np.random.Generator, name: str) -> None:
    """What the kernels read back has the bits of the file's own dequantization."""
    for rows, width in ((7, 512), (5, 96 if FORMATS[name].block_size == 32 else 256)):
        tensor = random_blocks(rng, name, (rows, width))
        packed = pack_matrix(tensor, torch.float32, ops.device)
        assert isinstance(packed, IntegerMatrix)
        found = dequantize(packed, torch.float32).numpy()
        np.testing.assert_array_equal(found, tensor.dequantize())


@pytest.mark.parametrize("name", [*QUANTIZED, "f8_e4m3"])
def test_bytes_are_those_of_the_plan(ops: CudaOps, rng: np.random.Generator, name: str) -> None:
    make = random_blocks if name in QUANTIZED else gaussian_weight
    tensor = make(rng, name, (16, 512))
    planned = ops.packed_bytes(tensor)
    assert ops.pack_linear([tensor]).matrices[0].num_bytes == planned
    assert planned <= 2 * tensor.nbytes


@pytest.mark.parametrize("name", [*QUANTIZED, "f32", "bf16", "f8_e4m3"])
@pytest.mark.parametrize("num_rows", [1, 3, 9, 65])
def test_linear(
    ops: CudaOps, exact: ReferenceOps, rng: np.random.Generator, name: str, num_rows: int
) -> None:
    width = 512 if name in FORMATS and FORMATS[name].block_size > 32 else 96
    tensor = gaussian_weight(rng, name, (19, width))
    bias = QuantTensor.from_array(rng.standard_normal(19).astype(np.float32))
    x = activations(rng, num_rows, width)
    y = ops.linear(torch.from_numpy(x), ops.pack_linear([tensor], [bias])).numpy()
    assert largest_error(y, expected(exact, x, [tensor], [bias])) < FLOAT_WEIGHT_ERROR


@pytest.mark.parametrize("name", ["q4_k", "q6_k", "q5_0", "f8_e4m3"])
def test_depths_that_are_split_over_programs(
    ops: CudaOps, exact: ReferenceOps, rng: np.random.Generator, name: str
) -> None:
    """Few columns and much depth: parts are added, the last of them not whole."""
    tensor = gaussian_weight(rng, name, (70, 2304))
    assert num_splits(2, 2304) == 4
    bias = QuantTensor.from_array(rng.standard_normal(70).astype(np.float32))
    x = activations(rng, 20, 2304)
    y = ops.linear(torch.from_numpy(x), ops.pack_linear([tensor], [bias])).numpy()
    assert largest_error(y, expected(exact, x, [tensor], [bias])) < FLOAT_WEIGHT_ERROR


@pytest.mark.parametrize("num_rows", [9, 65])
@pytest.mark.parametrize("kind", ["normal", "outliers"])
def test_products_of_float8(
    exact: ReferenceOps, rng: np.random.Generator, num_rows: int, kind: str
) -> None:
    """Activations are rounded row by row, as quant.float8 rounds them; the rest is exact."""
    ops = CudaOps("cpu", torch.float32, has_float8=True)
    tensor = gaussian_weight(rng, "f8_e4m3", (48, 96))
    bias = QuantTensor.from_array(rng.standard_normal(48).astype(np.float32))
    x = activations(rng, num_rows, 96, kind)
    rounded = quantize(x, "f8_e4m3").dequantize()
    y = ops.linear(torch.from_numpy(x), ops.pack_linear([tensor], [bias])).numpy()
    wanted = expected(exact, rounded, [tensor], [bias])
    assert largest_error(y, wanted) < FLOAT_WEIGHT_ERROR
    assert rms_error(wanted, expected(exact, x, [tensor], [bias])) < FLOAT8_ROUNDING
    # Logits stay wide, few rows and matrices that tiles of 16 do not fill are read as they are.
    for rows, columns in ((4, 48), (9, 47)):
        part = tensor.rows(0, columns)
        y = ops.linear(torch.from_numpy(x[:rows]), ops.pack_linear([part])).numpy()
        assert largest_error(y, expected(exact, x[:rows], [part])) < FLOAT_WEIGHT_ERROR


@pytest.mark.parametrize("has_add", [False, True])
def test_a_norm_rounds_as_the_product_would(rng: np.random.Generator, has_add: bool) -> None:
    """Once a matrix of float8 is packed; rows of a GEMV, and other linears, read it as it is."""
    ops = CudaOps("cpu", torch.float32, has_float8=True)
    floats = ops.pack_linear([gaussian_weight(rng, "f32", (48, 96))])
    h, add = (torch.from_numpy(activations(rng, 9, 96)) for _ in range(2))
    norm = torch.from_numpy(activations(rng, 1, 96)[0])
    given = add if has_add else None
    plain = ops.rms_norm(h.clone(), norm, 1e-6, given)
    assert isinstance(plain, torch.Tensor)
    weight = ops.pack_linear([gaussian_weight(rng, "f8_e4m3", (48, 96))])
    gated = ops.pack_linear([gaussian_weight(rng, "f8_e4m3", (32, 96))] * 2, interleave=True)
    both = h.clone()
    act = ops.rms_norm(both, norm, 1e-6, given)
    assert isinstance(act, RoundedAct)
    assert torch.equal(act.values, plain)
    assert torch.equal(both, h + add if has_add else h)
    rows = quantize_rows(plain)
    assert torch.equal(act.rows.codes, rows.codes) and torch.equal(act.rows.scales, rows.scales)
    for linear in (weight, floats):
        assert torch.equal(ops.linear(act, linear), ops.linear(plain, linear))
    assert torch.equal(ops.gated_linear(act, gated, "silu"), ops.gated_linear(plain, gated, "silu"))
    assert isinstance(ops.rms_norm(h[:8].clone(), norm, 1e-6), torch.Tensor)


@pytest.mark.parametrize("damage", [np.nan, np.inf])
def test_damaged_rows_of_float8_products_show(rng: np.random.Generator, damage: float) -> None:
    ops = CudaOps("cpu", torch.float32, has_float8=True)
    weight = ops.pack_linear([gaussian_weight(rng, "f8_e4m3", (48, 96))])
    x = activations(rng, 9, 96)
    clean = ops.linear(torch.from_numpy(x), weight).numpy()
    x[4, 7] = damage
    y = ops.linear(torch.from_numpy(x), weight).numpy()
    assert not np.isfinite(y[4]).any()
    np.testing.assert_array_equal(np.delete(y, 4, axis=0), np.delete(clean, 4, axis=0))


def test_a_library_without_products_of_rows_is_found_out_at_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By a product, not by the GPU's number: what cuBLAS refuses hangs on its version too."""
    assert has_products(torch.device("meta"))

    def refuse(*args: object, **kwargs: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED\nwhen calling")

    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    caplog.set_level("INFO")
    assert not has_products(torch.device("meta"))
    assert [each.message.rpartition(": ")[2] for each in caplog.records] == [
        "CUBLAS_STATUS_NOT_SUPPORTED"
    ]


@pytest.mark.parametrize("num_rows", [0, 1, 9])
def test_fused_parts_of_mixed_formats(
    ops: CudaOps, exact: ReferenceOps, rng: np.random.Generator, num_rows: int
) -> None:
    parts = [gaussian_weight(rng, name, (18, 256)) for name in ("q4_k", "q4_k", "q6_k")]
    bias = QuantTensor.from_array(rng.standard_normal(18).astype(np.float32))
    x = activations(rng, num_rows, 256)
    weight = ops.pack_linear(parts, [bias, None, bias])
    assert len(weight.matrices) == 2
    y = ops.linear(torch.from_numpy(x), weight).numpy()
    assert largest_error(y, expected(exact, x, parts, [bias, None, bias])) < FLOAT_WEIGHT_ERROR


@pytest.mark.parametrize(
    "formats", [("q4_k", "q4_k"), ("q8_0", "q4_0"), ("f32", "f32"), ("f8_e4m3", "f8_e4m3")], ids=str
)
@pytest.mark.parametrize("name", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("num_rows", [2, 9])
def test_gated_linear(
    ops: CudaOps,
    exact: ReferenceOps,
    rng: np.random.Generator,
    formats: tuple[str, str],
    name: Activation,
    num_rows: int,
) -> None:
    parts = [gaussian_weight(rng, each, (48, 256)) for each in formats]
    biases = [QuantTensor.from_array(rng.standard_normal(48).astype(np.float32)) for _ in parts]
    x = activations(rng, num_rows, 256)
    weight = exact.pack_linear(parts, biases, interleave=True)
    wanted = exact.gated_linear(x.astype(np.float64), weight, name)
    packed = ops.pack_linear(parts, biases, interleave=True)
    y = ops.gated_linear(torch.from_numpy(x), packed, name).numpy()
    assert largest_error(y, wanted) < 2 * FLOAT_WEIGHT_ERROR


def test_half_precision(exact: ReferenceOps, rng: np.random.Generator) -> None:
    ops = CudaOps("cpu", torch.float16)
    tensor = gaussian_weight(rng, "q4_k", (19, 512))
    x = activations(rng, 2, 512).astype(np.float16)
    y = ops.linear(torch.from_numpy(x), ops.pack_linear([tensor])).numpy()
    assert y.dtype == np.float16
    wanted = expected(exact, x.astype(np.float32), [tensor])
    assert largest_error(y.astype(np.float32), wanted) < HALF_ERROR


def test_parts_of_different_depth_are_refused(ops: CudaOps, rng: np.random.Generator) -> None:
    parts = [gaussian_weight(rng, "q8_0", (16, depth)) for depth in (64, 96)]
    with pytest.raises(ValueError, match=r"different widths: \[64, 96\]"):
        ops.pack_linear(parts)
