"""How AWQ, GPTQ and compressed-tensors name and lay out a matrix of packed integers.

In: the integer and float tensors of one module. Out: its integers [out, in] and their scales. Each
packing is a class with the suffixes of its tensors; `packing_of` picks one by the config and
refuses the variants that none of them reads.
Source: AutoAWQ, awq/modules/linear/gemm.py; AutoGPTQ, auto_gptq/nn_modules/qlinear/qlinear_cuda.py;
GPTQModel, gptqmodel/utils/model.py (gptq_v2); compressed-tensors, compressors/pack_quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import UnsupportedFormat
from headrace.quant.packed_words import GroupScales, unpack_awq_words, unpack_words

Read = Callable[[str], NDArray[Any]]
"""Reads a tensor of the folder by its whole name; floats come as float32."""

METHODS = ("awq", "gptq", "compressed-tensors", "fp8")
_CT_FORMATS = ("pack-quantized", "int-quantized", "naive-quantized")
_CT_FLOAT8_FORMATS = ("float-quantized", "naive-quantized")


class Packing(Protocol):
    """One way to store a matrix. `main` is the suffix of the tensor that holds the integers."""

    main: str
    others: tuple[str, ...]

    def scales(self, module: str, read: Read, has: Callable[[str], bool]) -> GroupScales:
        """What the integers stand for. Raises: ValueError for parts that contradict each other."""
        ...

    def integers(self, module: str, read: Read, groups: GroupScales) -> NDArray[np.uint8]:
        """Shapes: -> [out, in]."""
        ...


class AwqPacking:
    """Words run along the outputs, nibbles in an order of their own."""

    main: str = ".qweight"
    others: tuple[str, ...] = (".qzeros", ".scales")

    def scales(self, module: str, read: Read, has: Callable[[str], bool]) -> GroupScales:
        zeros = unpack_awq_words(read(module + ".qzeros")).T.astype(np.int16)
        width = read(module + self.main).shape[0]
        return GroupScales(4, width, zeros, read(module + ".scales").T)

    def integers(self, module: str, read: Read, groups: GroupScales) -> NDArray[np.uint8]:
        return np.ascontiguousarray(unpack_awq_words(read(module + self.main)).T)


class GptqPacking:
    """Words run along the inputs; zero points along the outputs, in version 1 less one.

    Zero points have the integers' bits: one of 0 is stored as the largest and comes round again.
    """

    main: str = ".qweight"
    others: tuple[str, ...] = (".qzeros", ".scales", ".g_idx")

    def __init__(self, bits: int, is_less_one: bool) -> None:
        self._bits, self._less = bits, int(is_less_one)

    def scales(self, module: str, read: Read, has: Callable[[str], bool]) -> GroupScales:
        stored = unpack_words(read(module + ".qzeros"), self._bits).T.astype(np.int16)
        zeros = (stored + self._less) & ((1 << self._bits) - 1)
        scales = read(module + ".scales").T
        width = read(module + self.main).shape[0] * (32 // self._bits)
        index = read(module + ".g_idx") if has(module + ".g_idx") else None
        group_of = scattered_groups(index, width, scales.shape[1])
        return GroupScales(self._bits, width, zeros, scales, group_of)

    def integers(self, module: str, read: Read, groups: GroupScales) -> NDArray[np.uint8]:
        return unpack_words(np.ascontiguousarray(read(module + self.main).T), groups.bits)


class CompressedPacking:
    """Words run along the inputs, the middle added; zero points in words along the outputs."""

    main: str = ".weight_packed"
    others: tuple[str, ...] = (
        ".weight_scale",
        ".weight_zero_point",
        ".weight_shape",
        ".weight_g_idx",
    )

    def scales(self, module: str, read: Read, has: Callable[[str], bool]) -> GroupScales:
        rows, width = (int(size) for size in read(module + ".weight_shape").reshape(-1))
        if rows < 1 or width < 1:
            raise ValueError(f"its shape is [{rows}, {width}]")
        bits = 32 * read(module + self.main).shape[1] // width
        if bits not in (4, 8):
            raise ValueError(f"its words hold {bits} bits per weight, not 4 or 8")
        scales = read(module + ".weight_scale").reshape(rows, -1)
        zeros = np.full(scales.shape, 1 << (bits - 1), np.int16)
        if has(module + ".weight_zero_point"):
            words = np.ascontiguousarray(read(module + ".weight_zero_point").T)
            zeros = unpack_words(words, bits).T[:rows].astype(np.int16)
        index = read(module + ".weight_g_idx") if has(module + ".weight_g_idx") else None
        group_of = scattered_groups(index, width, scales.shape[1])
        return GroupScales(bits, width, zeros, scales, group_of)

    def integers(self, module: str, read: Read, groups: GroupScales) -> NDArray[np.uint8]:
        return unpack_words(read(module + self.main), groups.bits)[:, : groups.width]


class Int8Packing:
    """compressed-tensors without words: signed integers in `weight` itself."""

    main: str = ".weight"
    others: tuple[str, ...] = (".weight_scale", ".weight_zero_point")

    def scales(self, module: str, read: Read, has: Callable[[str], bool]) -> GroupScales:
        weight = read(module + self.main)
        if weight.dtype != np.int8:
            raise ValueError(f"its weight is {weight.dtype}, not int8")
        scales = read(module + ".weight_scale").reshape(len(weight), -1)
        zeros = np.full(scales.shape, 128, np.int16)
        if has(module + ".weight_zero_point"):
            zeros = zeros + read(module + ".weight_zero_point").reshape(zeros.shape)
        return GroupScales(8, weight.shape[1], zeros, scales)

    def integers(self, module: str, read: Read, groups: GroupScales) -> NDArray[np.uint8]:
        return read(module + self.main).view(np.uint8) ^ np.uint8(128)


def scattered_groups(
    index: NDArray[Any] | None, width: int, num_groups: int
) -> NDArray[np.int64] | None:
    """The group of each column, None when columns come in runs of their group.

    Raises: ValueError for an index outside the groups.
    """
    if index is None or (index < 0).all():  # -1 stands for an index that was never set
        return None
    found = index.reshape(-1).astype(np.int64)
    if len(found) != width or found.min() < 0 or found.max() >= num_groups:
        raise ValueError(
            f"its index has {len(found)} entries up to {found.max()} for {width} columns in "
            f"{num_groups} groups"
        )
    runs = np.arange(width) // max(1, width // num_groups)
    return None if np.array_equal(found, runs) else found


def packing_of(folder: str, config: Mapping[str, Any]) -> Packing:
    """The packing that a `quantization_config` describes. Raises: UnsupportedFormat."""
    method = config.get("quant_method")
    if method == "awq":
        _expect(folder, config, "bits", (4,))
        for key in ("version", "format", "checkpoint_format"):
            _expect(folder, config, key, ("gemm", "GEMM", None))
        if config.get("backend") == "llm-awq":
            raise UnsupportedFormat(
                f"{folder}: quantization_config has backend 'llm-awq', whose words have another "
                "order; headrace reads what AutoAWQ writes. Use that, the unquantized model, or "
                "GGUF."
            )
        return AwqPacking()
    if method == "gptq":
        _expect(folder, config, "bits", (4, 8))
        _expect(folder, config, "checkpoint_format", ("gptq", "gptq_v2", None))
        _expect(folder, config, "is_marlin_format", (False, None))
        return GptqPacking(config["bits"], config.get("checkpoint_format") != "gptq_v2")
    if method == "compressed-tensors":
        _expect(folder, config, "format", _CT_FORMATS)
        for group in _groups(config):
            _refuse_group(folder, group)
        for key in ("transform_config", "sparsity_config"):
            _refuse_more(folder, key, config.get(key))
        return CompressedPacking() if config["format"] == _CT_FORMATS[0] else Int8Packing()
    raise UnsupportedFormat(
        f"{folder} is quantized with {method or 'an unnamed method'}. Of quantized safetensors "
        f"headrace reads {', '.join(METHODS)}. Use one of these, the unquantized model, or GGUF."
    )


def is_float8(config: object) -> bool:
    """Whether a `quantization_config` announces floats of 8 bits."""
    if not isinstance(config, dict):
        return False
    if config.get("quant_method") == "compressed-tensors":
        return any(_part(group, "weights").get("type") == "float" for group in _groups(config))
    return config.get("quant_method") == "fp8"


def float8_blocks(folder: str, config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns that share a scale; None where each row, or the matrix, has one.

    Raises: UnsupportedFormat for another float than e4m3, and for a variant that is not read.
    """
    if config["quant_method"] == "fp8":
        _expect(folder, config, "fmt", ("e4m3", "float8_e4m3fn", None))
        _expect(folder, config, "activation_scheme", ("dynamic", "static", None))
        return _block_size(folder, "weight_block_size", config.get("weight_block_size"))
    _expect(folder, config, "format", _CT_FLOAT8_FORMATS)
    for key in ("transform_config", "sparsity_config"):
        _refuse_more(folder, key, config.get(key))
    blocks = None
    for group in _groups(config):
        _expect_float8(folder, _part(group, "weights"))
        activations = _part(group, "input_activations")
        if activations:
            _expect_float8(folder, activations)
        if _part(group, "output_activations"):
            raise UnsupportedFormat(f"{folder} rounds output activations, which headrace does not.")
        key = "block_structure"
        blocks = _block_size(folder, key, _part(group, "weights").get(key))
    return blocks


def _expect_float8(folder: str, part: Mapping[str, Any]) -> None:
    _expect(folder, part, "type", ("float",))
    _expect(folder, part, "num_bits", (8,))


def _part(group: object, key: str) -> dict[str, Any]:
    part = group.get(key) if isinstance(group, dict) else None
    return part if isinstance(part, dict) else {}


def _block_size(folder: str, key: str, value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    sizes = value if isinstance(value, list) else []
    if len(sizes) != 2 or not all(type(size) is int and 0 < size <= 1 << 16 for size in sizes):
        raise UnsupportedFormat(
            f"{folder}: quantization_config has {key} {value!r}; headrace reads two integers, "
            "rows and columns that share a scale."
        )
    return sizes[0], sizes[1]


def _groups(config: Mapping[str, Any]) -> list[Any]:
    groups = config.get("config_groups")
    return list(groups.values()) if isinstance(groups, dict) else []


def _refuse_group(folder: str, group: object) -> None:
    """Integers of weights only, or activations that are rounded by row as headrace does anyway."""
    if not isinstance(group, dict):
        raise UnsupportedFormat(f"{folder}: config_groups holds {group!r}, not objects.")
    _expect(folder, group.get("weights"), "type", ("int",))
    _expect(folder, group.get("weights"), "num_bits", (4, 8))
    activations = group.get("input_activations")
    if activations is not None:
        _expect(folder, activations, "type", ("int",))
        _expect(folder, activations, "num_bits", (8,))
        _expect(folder, activations, "dynamic", (True,))
    if group.get("output_activations") is not None:
        raise UnsupportedFormat(f"{folder} rounds output activations, which headrace does not.")


def _refuse_more(folder: str, key: str, value: object) -> None:
    """Rotations of inputs, and weights of which only some are stored. `dense` stores all."""
    is_dense = isinstance(value, dict) and value.get("format") == "dense"
    if value and not is_dense:
        raise UnsupportedFormat(
            f"{folder}: quantization_config has a {key}, which headrace does not apply. Use "
            "another quantization of the model, the unquantized one, or GGUF."
        )


def _expect(folder: str, config: object, key: str, allowed: tuple[object, ...]) -> None:
    value = config.get(key) if isinstance(config, dict) else None
    if value not in allowed or isinstance(value, float):  # 4.0 is no number of bits
        names = ", ".join(str(value) for value in allowed if value is not None)
        raise UnsupportedFormat(
            f"{folder}: quantization_config has {key} {value!r}; headrace reads {names}. "
            "Use another quantization of the model, the unquantized one, or GGUF."
        )
