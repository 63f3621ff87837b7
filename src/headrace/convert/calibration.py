"""What each column of each matrix multiplies, measured on a text: the importance of its weights.

In: an open model, its tokens of a text, a device. Out: by our name, the mean square of each input
column; rounding then spends its precision where activations are large. The error of a product is
the sum over columns of (error of the weight)^2 times this number, if columns are taken as
independent. Needs memory for the whole model in the device's form.
Source: arXiv 2306.00978 (activations say which weights matter); llama.cpp, tools/imatrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from headrace.convert.observed_ops import ObservedOps
from headrace.core.errors import InvalidParameter
from headrace.core.step import ScheduledRequest
from headrace.executor.input_batch import flatten
from headrace.executor.load import load_weights
from headrace.models.llama import Llama
from headrace.models.model_config import ModelConfig
from headrace.models.registry import model_class
from headrace.models.weight_spec import DecoderWeights
from headrace.ops.protocol import Ops
from headrace.quant.scale_search import Floats
from headrace.weights.tensor_source import TensorSource
from headrace.weights.weight_reader import WeightReader

WINDOW_TOKENS = 512
LEAST_TOKENS = 128
_BLOCK_SIZE = 32
Report = Callable[[int, int], None]
"""Called with tokens done and tokens in all."""


@dataclass(frozen=True, slots=True)
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
    model_type = model_class(reader.architecture)
    is_gguf = reader.kind == "gguf"
    read = model_type.config_from_gguf if is_gguf else model_type.config_from_huggingface
    config = read(reader.metadata)
    weights = load_weights(model_type, config, reader, ops, WINDOW_TOKENS)
    ops.finish_packing()
    observed = ObservedOps(ops)
    _run(model_type(ops, config, weights).over(cast(Ops, observed)), observed, token_ids, report)
    importance = _by_name(observed, model_type, config, weights)
    return Calibration(importance, len(token_ids), config.num_layers)


def _run(
    model: Llama, observed: ObservedOps, token_ids: Sequence[int], report: Report | None
) -> None:
    """One window after the other, each a context of its own in the same blocks."""
    num_blocks = WINDOW_TOKENS // _BLOCK_SIZE
    cache = model.ops.allocate_kv(model.config.attention, num_blocks, _BLOCK_SIZE)
    for start in range(0, len(token_ids), WINDOW_TOKENS):
        window = token_ids[start : start + WINDOW_TOKENS]
        blocks = list(range(-(-len(window) // _BLOCK_SIZE)))
        request = ScheduledRequest("calibration", window, 0, blocks, len(window), False)
        inputs = flatten([request], _BLOCK_SIZE)
        hidden = model.forward(inputs, cache)
        # What the head would read; its product is not wanted.
        observed.observe(model.states(hidden, inputs.logit_rows), model.weights.head)
        if report is not None:
            report(start + len(window), len(token_ids))


def _by_name(
    observed: ObservedOps, model_type: type[Llama], config: ModelConfig, weights: DecoderWeights
) -> dict[str, Floats]:
    """Means under our names; none of a matrix that no linear has multiplied."""
    found = {"head": observed.mean_squares(weights.head)}
    found["embed"] = found["head"]  # for a head that is tied to it
    for spec in model_type.layer_spec(config).linears:
        for i, layer in enumerate(weights.layers):
            means = observed.mean_squares(getattr(layer, spec.field, None))
            found.update({f"layers.{i}.{part}": means for part in spec.parts})
    return {name: means for name, means in found.items() if means is not None}
