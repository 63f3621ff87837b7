"""The table of number formats that a weight may be stored in.

Owns names, GGUF type codes and block sizes. A new format is a row here and a layout in
`gguf_blocks.py`. Knows nothing of arrays or files.
Source: ggml, docs/gguf.md and src/ggml-common.h.
"""

from __future__ import annotations

from headrace.core.errors import UnsupportedFormat
from headrace.core.frozen import frozen


@frozen
class QuantFormat:
    """A way to store weights: blocks of `block_size` weights in `block_bytes` bytes.

    `ggml_type` is the type code in GGUF files. Floats are blocks of one weight. A row may end with
    a scale of its own, in `row_scale_bytes`.
    """

    name: str
    ggml_type: int
    block_size: int
    block_bytes: int
    is_quantized: bool
    row_scale_bytes: int = 0

    @property
    def bits_per_weight(self) -> float:
        return self.block_bytes * 8 / self.block_size

    def row_bytes(self, num_weights: int) -> int:
        """Bytes of a row of `num_weights`. Raises: ValueError if blocks do not fill it."""
        if num_weights % self.block_size:
            raise ValueError(
                f"a row of {num_weights} weights is not a multiple of {self.name}'s "
                f"block of {self.block_size}"
            )
        return num_weights // self.block_size * self.block_bytes + self.row_scale_bytes


FORMATS: dict[str, QuantFormat] = {
    row.name: row
    for row in (
        QuantFormat("f32", 0, 1, 4, False),
        QuantFormat("f16", 1, 1, 2, False),
        QuantFormat("bf16", 30, 1, 2, False),
        QuantFormat("q4_0", 2, 32, 18, True),
        QuantFormat("q4_1", 3, 32, 20, True),
        QuantFormat("q5_0", 6, 32, 22, True),
        QuantFormat("q5_1", 7, 32, 24, True),
        QuantFormat("q8_0", 8, 32, 34, True),
        QuantFormat("q2_k", 10, 256, 84, True),
        QuantFormat("q3_k", 11, 256, 110, True),
        QuantFormat("q4_k", 12, 256, 144, True),
        QuantFormat("q5_k", 13, 256, 176, True),
        QuantFormat("q6_k", 14, 256, 210, True),
        QuantFormat("iq4_nl", 20, 32, 18, True),
    )
}

F8_E4M3 = QuantFormat("f8_e4m3", -1, 1, 1, False, row_scale_bytes=4)
"""Floats of 8 bits, see float8.py. Beside the table: GGUF has no such type."""

# Types that GGUF knows and headrace does not read; named only so that the error can name them.
_UNREAD_GGML_TYPES = {
    9: "q8_1", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s", 21: "iq3_s",
    22: "iq2_s", 23: "iq4_xs", 24: "i8", 25: "i16", 26: "i32", 27: "i64", 28: "f64", 29: "iq1_m",
    34: "tq1_0", 35: "tq2_0", 39: "mxfp4", 40: "nvfp4", 41: "q1_0",
}  # fmt: skip
_BY_GGML_TYPE = {row.ggml_type: row for row in FORMATS.values()}


def by_ggml_type(ggml_type: int) -> QuantFormat:
    """Find the format of a GGUF type code.

    Raises: UnsupportedFormat.
    """
    found = _BY_GGML_TYPE.get(ggml_type)
    if found is None:
        name = _UNREAD_GGML_TYPES.get(ggml_type, "unknown")
        raise UnsupportedFormat(
            f"tensor type {ggml_type} ({name}) is not one that headrace reads: "
            f"{', '.join(FORMATS)}. Use a file quantized to one of these."
        )
    return found
