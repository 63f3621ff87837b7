"""Adapters over the linears of any device whose arrays are numpy's: products of few columns.

In: a step with adapters, a device. Out: ops whose linears add each adapter's product to its rows.
Rows are gathered by adapter, so that each adapter is read once a step. Knows nothing of files.
Source: arXiv 2106.09685; rows of several adapters in one batch, arXiv 2310.18547.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headrace.core.frozen import frozen
from headrace.ops.protocol import Activation, AdaptedLinear, Ops, PackedLinear
from headrace.ops.reference.norm import Floats
from headrace.ops.step_inputs import Int32, StepInputs

Gate = Callable[[Floats, Activation], Floats]
"""activation(gate) * up of interleaved columns. Shapes: [T, 2F] -> [T, F]."""
AddLora = Callable[[Floats, PackedLinear, PackedLinear, Int32, Floats], None]
"""y[rows] += (x[rows] a^T) b^T. Mutates: y, the last."""


@frozen(eq=False)
class Adapter:
    """Packed pairs (a, b) by the identity of the weight they go with, which is kept alive."""

    pairs: Mapping[int, tuple[PackedLinear, PackedLinear]]
    weights: tuple[PackedLinear, ...]
    handle: Any = None


def pack_adapter(ops: Ops, linears: Sequence[AdaptedLinear]) -> Adapter:
    """See Ops.pack_adapter."""
    pairs = {
        id(linear.weight): (
            ops.pack_linear([linear.a]),
            ops.pack_linear(linear.b_parts, interleave=linear.interleave),
        )
        for linear in linears
    }
    return Adapter(pairs, tuple(linear.weight for linear in linears))


class AdaptedOps:
    """Ops around Ops for one step; what adapters do not change it passes on."""

    def __init__(self, inner: Ops, step: StepInputs, gate: Gate, add_lora: AddLora) -> None:
        self._inner, self._gate, self._add_lora = inner, gate, add_lora
        # After the last attention only the wanted rows go on. Where those are all, both agree.
        self._rows: dict[int, list[tuple[Adapter, Int32]]] = {
            len(step.logit_rows): [(each.adapter, each.logit_rows) for each in step.adapters],
            len(step.token_ids): [(each.adapter, each.token_rows) for each in step.adapters],
        }

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def linear(self, x: Floats, weight: PackedLinear) -> Floats:
        """As the protocol's."""
        y: Floats = self._inner.linear(x, weight)
        self._add(x, weight, y)
        return y

    def gated_linear(
        self,
        x: Floats,
        weight: PackedLinear,
        activation: Activation,
        reader: PackedLinear | None = None,
    ) -> Floats:
        """As the protocol's; the result stays float, because adapters may read it too."""
        if not any(id(weight) in adapter.pairs for adapter, _ in self._rows[len(x)]):
            gated: Floats = self._inner.gated_linear(x, weight, activation)
            return gated
        return self._gate(self.linear(x, weight), activation)

    def _add(self, x: Floats, weight: PackedLinear, y: Floats) -> None:
        """Mutates: y."""
        for adapter, rows in self._rows[len(x)]:
            pair = adapter.pairs.get(id(weight))
            if pair is not None and len(rows):
                self._add_lora(x, *pair, rows, y)


def add_lora(ops: Ops, x: Floats, a: PackedLinear, b: PackedLinear, rows: Int32, y: Floats) -> None:
    """The definition of AddLora. Mutates: y."""
    y[rows] += ops.linear(ops.linear(x[rows], a), b)
