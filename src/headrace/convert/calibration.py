"""What each column of each matrix multiplies, measured on a text: the importance of its weights.

In: an open model, its tokens of a text, a device. Out: by our name, the mean square of each input
column; rounding then spends its precision where activations are large. The error of a product is
the sum over columns of (error of the weight)^2 times this number, if columns are taken as
independent. Needs memory for the whole model in the device's form.
Source: arXiv 2306.00978 (activations say which weights matter); llama.cpp, tools/imatrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

from headrace.convert.observed_ops import ObservedOps
from headrace.core.errors import InvalidParameter
from headrace.core.frozen import frozen
from headrace.core.step import ScheduledRequest
from headrace.executor.input_batch import flatten
from headrace.executor.load import load_weights, read_config
from headrace.models.llama import Hidden, Llama
from headrace.models.registry import model_class
from headrace.ops.protocol import Ops, PackedLinear
from headrace.ops.step_inputs import StepInputs
from headrace.quant.scale_search import Floats
from headrace.weights.tensor_source import TensorSource
from headrace.weights.weight_reader import WeightReader

WINDOW_TOKENS = 512
LEAST_TOKENS = 128
_BLOCK_SIZE = 32
Report = Callable[[int, int], None]
"""Called with tokens done and tokens in all."""


@frozen
class Calibration:
    """Importance by our name, and the tokens it was measured on. Shapes: [in] each."""

    importance: Mapping[str, Floats]
    num_tokens: int
    num_layers: int

    def of_files(self, table: Mapping[str, TensorSource]) -> dict[str, Floats]:
        """The same under the names of a file, by what our names are there."""
        return {table[name].name: means for name, means in self.importance.items() if name in table}


def calibrate(
    reader: WeightReader, token_ids: Sequence[int], ops: Ops, report: Report | None = None
) -> Calibration:
    """Run the model over windows of the tokens and measure what its linears multiply.

    Raises: InvalidParameter for too few tokens; what loading raises.
    """
    if len(token_ids) < LEAST_TOKENS:
        raise InvalidParameter(
            "calibration", f"{len(token_ids)} tokens", f"a text of at least {LEAST_TOKENS} tokens"
        )
    model = open_model(reader, ops)
    observed = ObservedOps(ops)
    _run(model.over(cast(Ops, observed)), observed, token_ids, report)
    importance = _by_name(observed, model)
    return Calibration(importance, len(token_ids), model.config.num_layers)


def open_model(reader: WeightReader, ops: Ops) -> Llama:
    """The model for contexts of a window. Raises: what loading raises."""
    model_type = model_class(reader.architecture)
    config = read_config(model_type, reader)
    weights = load_weights(model_type, config, reader, ops, WINDOW_TOKENS)
    ops.finish_packing()
    return model_type(ops, config, weights)


def _run(
    model: Llama, observed: ObservedOps, token_ids: Sequence[int], report: Report | None
) -> None:
    """One window after the other, each a context of its own in the same blocks."""
    for start in range(0, len(token_ids), WINDOW_TOKENS):
        window = token_ids[start : start + WINDOW_TOKENS]
        inputs, hidden = run_windows(model, window)
        # What the head would read; its product is not wanted.
        observed.observe(model.states(hidden, inputs.logit_rows), model.weights.head)
        if report is not None:
            report(start + len(window), len(token_ids))


def run_windows(model: Llama, token_ids: Sequence[int]) -> tuple[StepInputs, Hidden]:
    """One step over all tokens, each window of them a context of its own."""
    per_window = WINDOW_TOKENS // _BLOCK_SIZE
    windows = range(0, len(token_ids), WINDOW_TOKENS)
    cache = model.ops.allocate_kv(model.config.attention, per_window * len(windows), _BLOCK_SIZE)
    requests = []
    for i, start in enumerate(windows):
        window = token_ids[start : start + WINDOW_TOKENS]
        blocks = range(i * per_window, i * per_window - (-len(window) // _BLOCK_SIZE))
        requests.append(ScheduledRequest(f"{i}", window, 0, list(blocks), len(window), False))
    inputs = flatten(requests, _BLOCK_SIZE)
    return inputs, model.forward(inputs, cache)


def linears_of(model: Llama) -> Iterator[tuple[PackedLinear, list[str]]]:
    """Every fused matrix of the layers, and its parts under our names."""
    for spec in model.layer_spec(model.config).linears:
        for i, layer in enumerate(model.weights.layers):
            yield getattr(layer, spec.field), [f"layers.{i}.{part}" for part in spec.parts]


def _by_name(observed: ObservedOps, model: Llama) -> dict[str, Floats]:
    """Means under our names; none of a matrix that no linear has multiplied."""
    found = {"head": observed.mean_squares(model.weights.head)}
    found["embed"] = found["head"]  # for a head that is tied to it
    for weight, names in linears_of(model):
        found.update(dict.fromkeys(names, observed.mean_squares(weight)))
    return {name: means for name, means in found.items() if means is not None}
