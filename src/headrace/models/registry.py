"""model_type -> the class that runs it. An explicit table; files register nothing by themselves.

Classes are named by text: a start imports the one that its file needs.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from headrace.core.errors import UnsupportedFormat
from headrace.models.llama import Llama

if TYPE_CHECKING:
    from headrace.models.bert import Bert

MODELS: Mapping[str, str] = {
    "llama": "headrace.models.llama:Llama",
    "mistral": "headrace.models.llama:Llama",
    "mixtral": "headrace.models.mixtral:Mixtral",
    "qwen2": "headrace.models.qwen2:Qwen2",
    "qwen2moe": "headrace.models.qwen2_moe:Qwen2Moe",
    "qwen2_moe": "headrace.models.qwen2_moe:Qwen2Moe",
    "qwen3": "headrace.models.qwen3:Qwen3",
    "qwen3moe": "headrace.models.qwen3_moe:Qwen3Moe",
    "qwen3_moe": "headrace.models.qwen3_moe:Qwen3Moe",
    "gemma2": "headrace.models.gemma2:Gemma2",
    "gemma3": "headrace.models.gemma3:Gemma3",
    "gemma3_text": "headrace.models.gemma3:Gemma3",
    "phi3": "headrace.models.phi3:Phi3",
}

ENCODERS: Mapping[str, str] = {
    "bert": "headrace.models.bert:Bert",
    "camembert": "headrace.models.roberta:Roberta",
    "distilbert": "headrace.models.distilbert:DistilBert",
    "roberta": "headrace.models.roberta:Roberta",
    "xlm-roberta": "headrace.models.roberta:Roberta",
}


def model_class(architecture: str) -> type[Llama]:
    """The class for a file's architecture. Raises: UnsupportedFormat that lists the known ones."""
    if architecture in MODELS:
        model: type[Llama] = _load(MODELS[architecture])
        return model
    if architecture in ENCODERS:
        raise UnsupportedFormat(
            f"The architecture {architecture!r} is an encoder: it makes vectors and does not "
            "answer. Give its Hugging Face folder to `headrace embed` or headrace.Embedder, or "
            "serve that for /v1/embeddings."
        )
    known = ", ".join(sorted(MODELS))
    raise UnsupportedFormat(
        f"The architecture {architecture!r} is not supported; known: {known}; encoders: "
        f"{', '.join(ENCODERS)}."
    )


def encoder_class(architecture: str) -> type[Bert]:
    """The class for an encoder's architecture. Raises: KeyError for what is none."""
    model: type[Bert] = _load(ENCODERS[architecture])
    return model


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
