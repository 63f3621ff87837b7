"""model_type -> the class that runs it. An explicit table; files register nothing by themselves."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.core.errors import UnsupportedFormat
from headrace.models.bert import Bert
from headrace.models.distilbert import DistilBert
from headrace.models.gemma2 import Gemma2
from headrace.models.gemma3 import Gemma3
from headrace.models.llama import Llama
from headrace.models.mixtral import Mixtral
from headrace.models.phi3 import Phi3
from headrace.models.qwen2 import Qwen2
from headrace.models.qwen2_moe import Qwen2Moe
from headrace.models.qwen3 import Qwen3
from headrace.models.qwen3_moe import Qwen3Moe
from headrace.models.roberta import Roberta

MODELS: Mapping[str, type[Llama]] = {
    "llama": Llama,
    "mistral": Llama,
    "mixtral": Mixtral,
    "qwen2": Qwen2,
    "qwen2moe": Qwen2Moe,
    "qwen2_moe": Qwen2Moe,
    "qwen3": Qwen3,
    "qwen3moe": Qwen3Moe,
    "qwen3_moe": Qwen3Moe,
    "gemma2": Gemma2,
    "gemma3": Gemma3,
    "gemma3_text": Gemma3,
    "phi3": Phi3,
}

ENCODERS: Mapping[str, type[Bert]] = {
    "bert": Bert,
    "camembert": Roberta,
    "distilbert": DistilBert,
    "roberta": Roberta,
    "xlm-roberta": Roberta,
}


def model_class(architecture: str) -> type[Llama]:
    """The class for a file's architecture. Raises: UnsupportedFormat that lists the known ones."""
    try:
        return MODELS[architecture]
    except KeyError:
        if architecture in ENCODERS:
            raise UnsupportedFormat(
                f"The architecture {architecture!r} is an encoder: it makes vectors and does not "
                "answer. Give its Hugging Face folder to `headrace embed` or headrace.Embedder, or "
                "serve that for /v1/embeddings."
            ) from None
        known = ", ".join(sorted(MODELS))
        raise UnsupportedFormat(
            f"The architecture {architecture!r} is not supported; known: {known}; encoders: "
            f"{', '.join(ENCODERS)}."
        ) from None
