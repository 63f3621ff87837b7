"""Rounds a matrix column by column and lets later columns make up for the errors of earlier ones.

In: floats, a format, the second moments of what the matrix multiplies. Out: blocks of that format
whose products change least, where `scale_search` keeps weights close. Slow, offline.

    H = mean of x x^T = G^T G, G lower triangular, so the mean of |x e|^2 is the sum over columns
    j of (sum over k <= j of G[j, k] e[k])^2. Column j is rounded from
    w[j] + sum over k < j of G[j, k] / G[j, j] * e[k], where e = w - rounded.

The scales of a block are searched for when its turn comes, in weights already corrected.
Source: arXiv 2210.17323 (GPTQ); arXiv 2507.18553 for the form without the inverse of H.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.quant.format import FORMATS, QuantFormat
from headrace.quant.gguf_blocks import BlockIntegers
from headrace.quant.gguf_pack import pack
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.scale_search import Floats, choose_blocks, column_weights, inverse, rounding_of

DAMPING = 0.01
"""Added to the diagonal, of its mean: directions that the text hardly shows stay solvable."""


class ErrorFeedback:
    """What the columns of a matrix owe each other; threads may round rows beside each other."""

    def __init__(self, moments: NDArray[np.float64], num_rows: int) -> None:
        """Solve for the shares. Takes 32 bytes for each moment at its height.

        Shapes: moments [in, in], symmetric: the mean of x x^T over `num_rows` rows.
        Raises: ValueError for moments that are none.
        """
        width = len(moments)
        if moments.shape != (width, width) or not np.isfinite(moments).all():
            raise ValueError("moments are a square of finite numbers")
        damped = moments[::-1, ::-1] * _trust(moments, num_rows)
        variances = moments.diagonal()
        damped[np.diag_indices(width)] = variances[::-1] + (DAMPING * variances.mean() or 1.0)
        lower = np.linalg.cholesky(damped).T[::-1, ::-1]
        shares = np.empty((width, width), np.float32)
        np.divide(lower, lower.diagonal()[:, None], out=shares, casting="same_kind")
        self._shares = np.tril(shares, -1)
        self._importance = column_weights(variances.astype(np.float32), width)

    def round(self, array: NDArray[np.floating[Any]], format_name: str) -> QuantTensor:
        """Round rows, each independently, to a quantized format.

        Shapes: array [rows, in].
        Raises: ValueError as `search` does.
        """
        fmt, width = FORMATS[format_name], len(self._shares)
        if array.ndim != 2 or array.shape[1] != width or width % fmt.block_size:
            raise ValueError(f"rows of {array.shape[-1]} weights; moments are of {width}")
        x = np.ascontiguousarray(array, dtype=np.float32)
        if not np.isfinite(x).all():
            raise ValueError("weights to quantize must be finite")
        errors = np.zeros_like(x)
        blocks = [self._round_block(fmt, x, errors, i) for i in range(0, width, fmt.block_size)]
        return QuantTensor(fmt, x.shape, np.concatenate(blocks, axis=1))

    def _round_block(
        self, fmt: QuantFormat, x: Floats, errors: Floats, start: int
    ) -> NDArray[np.uint8]:
        """Mutates: errors, in the columns of the block."""
        block = slice(start, start + fmt.block_size)
        wanted = x[:, block] + errors[:, :start] @ self._shares[block, :start].T
        integers = choose_blocks(fmt, wanted, self._importance[block])
        scale, low = _lines(integers)
        to_integers, per_scale = rounding_of(fmt), inverse(scale)
        exact, targets = x[:, block].T, np.ascontiguousarray(wanted.T)
        shares, lost = self._shares[block, block], np.zeros_like(targets)
        for j, target in enumerate(targets):
            owed = target + shares[j, :j] @ lost[:j]  # [rows]
            q = to_integers((owed - low[j]) * per_scale[j])
            lost[j] = exact[j] - (scale[j] * q + low[j])
            integers.q[:, j] = q + np.float32(integers.zero)
        errors[:, block] = lost.T
        return pack(fmt, integers)


def _trust(moments: NDArray[np.float64], num_rows: int) -> float:
    """How much of what columns have in common is more than chance, from 0 to 1.

    Few rows make independent columns look alike, and feeding errors on would then add to them.
    Source: Schäfer and Strimmer 2005, doi 10.2202/1544-6115.1175, shrinkage of covariances.
    """
    variances = moments.diagonal()
    own = float(variances @ variances)
    shared = float(np.einsum("ij,ij->", moments, moments)) - own
    chance = (float(variances.sum()) ** 2 - own) / num_rows
    return max(0.0, 1.0 - chance / shared) if shared > 0 else 0.0


def _lines(integers: BlockIntegers) -> tuple[Floats, Floats]:
    """Scale and offset of every weight: w = scale * (q - zero) + offset.

    Shapes: -> [in, rows] each.
    """
    zero = np.full(integers.q.shape, integers.zero, np.int16)
    low = replace(integers, q=zero).to_float()
    one = replace(integers, q=zero + np.int16(1)).to_float()
    return np.ascontiguousarray((one - low).T), np.ascontiguousarray(low.T)
