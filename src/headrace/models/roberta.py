"""RoBERTa, and XLM-RoBERTa and CamemBERT with it: BERT whose positions begin after its padding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from headrace.core.errors import ModelFileError
from headrace.models.bert import Bert
from headrace.models.encoder_config import EncoderConfig
from headrace.weights.tensor_source import read_size


class Roberta(Bert):
    """Both texts of a pair have the type 0. Source: arXiv 1907.11692, 1911.02116."""

    model_type = "roberta"
    classifiers: ClassVar[tuple[str, ...]] = (
        "RobertaForSequenceClassification",
        "XLMRobertaForSequenceClassification",
        "CamembertForSequenceClassification",
    )

    @classmethod
    def config_from_huggingface(cls, config: Mapping[str, Any]) -> EncoderConfig:
        found = super().config_from_huggingface(config)
        padding_id = read_size({"pad_token_id": 1, **config}, "pad_token_id", least=0)
        if not 0 <= padding_id < found.num_positions - 1:
            raise ModelFileError(
                f"config.json has pad_token_id = {padding_id}, after which positions begin, and "
                f"max_position_embeddings = {found.num_positions}, which leaves none."
            )
        return replace(found, padding_id=padding_id, reads_token_types=False)
