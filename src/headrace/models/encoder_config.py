"""EncoderConfig: the numbers of an encoder, read from a Hugging Face config.

In: config.json as a mapping. Out: one frozen record. Knows nothing of tensors or devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.core.errors import ModelFileError
from headrace.core.frozen import frozen
from headrace.core.scores import ProblemType
from headrace.models.model_config import check_divisible
from headrace.ops.protocol import AttentionSpec
from headrace.weights.tensor_source import read_size


@frozen
class EncoderConfig:
    """Units: sizes in elements.

    `num_positions` is rows of the table. `padding_id`: where there is one, positions begin after it
    and padding among the tokens is not counted. `reads_token_types`: whether the second text of a
    pair has a type of its own. `labels` are the outputs of a classification head, none without one.
    """

    model_type: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    num_positions: int
    num_token_types: int
    layer_norm_eps: float
    attention: AttentionSpec
    padding_id: int | None = None
    reads_token_types: bool = True
    labels: tuple[str, ...] = ()
    problem_type: ProblemType | None = None

    @property
    def max_tokens(self) -> int:
        """The longest input."""
        return self.num_positions - (0 if self.padding_id is None else self.padding_id + 1)


def encoder_attention(config: Mapping[str, Any]) -> AttentionSpec:
    """As many KV heads as heads, which fill the width. Raises: ModelFileError."""
    num_heads = read_size(config, "num_attention_heads")
    width = read_size(config, "hidden_size")
    check_divisible(num_heads, num_heads)
    if width % num_heads:
        raise ModelFileError(f"config.json has {num_heads} heads, which do not divide {width}.")
    size = width // num_heads
    return AttentionSpec(num_heads, num_heads, size, scale=size**-0.5)


def read_labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a classification head's outputs, in their order. Raises: ModelFileError."""
    names = config.get("id2label")
    if names is None:
        return tuple(f"LABEL_{index}" for index in range(read_size(config, "num_labels", 2)))
    try:
        labels = {int(index): str(name) for index, name in names.items()}
        return tuple(labels[index] for index in range(len(labels)))
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise ModelFileError(
            f"config.json has id2label = {names!r}; it must name outputs 0, 1, 2, ..."
        ) from error


def read_problem_type(config: Mapping[str, Any], num_labels: int) -> ProblemType:
    """What the outputs mean: a probability each, one in all, or numbers as they are.

    A cross-encoder's own word comes first.
    Source: transformers, text-classification pipeline; sentence-transformers, CrossEncoder.
    """
    nested = config.get("sentence_transformers")
    own = nested.get("activation_fn") if isinstance(nested, Mapping) else None
    activation = str(own or config.get("sbert_ce_default_activation_function") or "")
    if activation.endswith("Identity"):
        return "regression"
    if activation.endswith("Sigmoid"):
        return "multi_label_classification"
    given = config.get("problem_type")
    if given in ("single_label_classification", "multi_label_classification", "regression"):
        return given  # type: ignore[no-any-return]
    return "multi_label_classification" if num_labels == 1 else "single_label_classification"
