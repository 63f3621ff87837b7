"""The format table against the gguf package's own."""

from __future__ import annotations

import gguf
import pytest

from headrace.core.errors import UnsupportedFormat
from headrace.quant.format import FORMATS, by_ggml_type


@pytest.mark.parametrize("name", FORMATS)
def test_sizes_and_type_codes_are_ggml_s(name: str) -> None:
    fmt = FORMATS[name]
    ggml_type = gguf.GGMLQuantizationType[name.upper()]
    assert fmt.name == name
    assert fmt.ggml_type == ggml_type.value
    assert (fmt.block_size, fmt.block_bytes) == gguf.GGML_QUANT_SIZES[ggml_type]
    assert by_ggml_type(ggml_type.value) is fmt


def test_every_other_type_is_refused_by_name() -> None:
    for ggml_type in gguf.GGMLQuantizationType:
        if ggml_type.name.lower() not in FORMATS:
            with pytest.raises(UnsupportedFormat, match=rf"\({ggml_type.name.lower()}\).*q4_k"):
                by_ggml_type(ggml_type.value)
    with pytest.raises(UnsupportedFormat, match=r"type 4711 \(unknown\)"):
        by_ggml_type(4711)


def test_bits_per_weight() -> None:
    bits = {name: fmt.bits_per_weight for name, fmt in FORMATS.items()}
    assert (bits["q4_k"], bits["q6_k"], bits["q8_0"], bits["bf16"]) == (4.5, 6.5625, 8.5, 16.0)


def test_a_row_that_blocks_do_not_fill_is_refused() -> None:
    assert FORMATS["q4_k"].row_bytes(512) == 288
    with pytest.raises(ValueError, match=r"row of 300 weights.*q4_k.*256"):
        FORMATS["q4_k"].row_bytes(300)
