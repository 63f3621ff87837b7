"""What a classification head's config says of its outputs."""

from __future__ import annotations

import pytest

from headrace.core.errors import ModelFileError
from headrace.models.encoder_config import encoder_attention, read_labels, read_problem_type

IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"


@pytest.mark.parametrize(
    ("config", "num_labels", "expected"),
    [
        ({}, 1, "multi_label_classification"),
        ({}, 3, "single_label_classification"),
        ({"problem_type": "regression"}, 1, "regression"),
        ({"problem_type": "multi_label_classification"}, 3, "multi_label_classification"),
        ({"sbert_ce_default_activation_function": IDENTITY}, 1, "regression"),
        ({"sentence_transformers": {"activation_fn": IDENTITY}}, 1, "regression"),
        ({"sentence_transformers": {"activation_fn": SIGMOID}}, 3, "multi_label_classification"),
    ],
)
def test_the_problem_type(config: dict[str, object], num_labels: int, expected: str) -> None:
    assert read_problem_type(config, num_labels) == expected


def test_labels_come_in_their_order() -> None:
    assert read_labels({"id2label": {"1": "b", "0": "a"}}) == ("a", "b")
    assert read_labels({"num_labels": 3}) == ("LABEL_0", "LABEL_1", "LABEL_2")
    for wrong in ({"0": "a", "2": "b"}, ["a"], {"x": "a"}):
        with pytest.raises(ModelFileError, match="id2label"):
            read_labels({"id2label": wrong})


def test_heads_fill_the_width() -> None:
    assert encoder_attention({"num_attention_heads": 4, "hidden_size": 64}).head_size == 16
    with pytest.raises(ModelFileError, match="heads"):
        encoder_attention({"num_attention_heads": 5, "hidden_size": 64})
