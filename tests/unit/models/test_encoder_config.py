"""What a classification head's config says of its outputs."""

from __future__ import annotations

import pytest

from headrace.core.errors import ModelFileError
from headrace.models.encoder_config import encoder_attention, read_labels, read_problem_type
from headrace.models.registry import encoder_class

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


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"layer_norm_eps": "x"}, "layer_norm_eps = 'x'"),
        ({"type_vocab_size": -1}, "type_vocab_size is -1"),
        ({"num_labels": "two"}, "num_labels is 'two'"),
    ],
)
def test_damaged_numbers_are_named(changes: dict[str, object], named: str) -> None:
    config: dict[str, object] = {
        "vocab_size": 100,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "architectures": ["BertForSequenceClassification"],
    }
    assert encoder_class("bert").config_from_huggingface(config).labels == ("LABEL_0", "LABEL_1")
    with pytest.raises(ModelFileError, match=named):
        encoder_class("bert").config_from_huggingface(config | changes)


def test_heads_fill_the_width() -> None:
    assert encoder_attention({"num_attention_heads": 4, "hidden_size": 64}).head_size == 16
    with pytest.raises(ModelFileError, match="heads"):
        encoder_attention({"num_attention_heads": 5, "hidden_size": 64})
