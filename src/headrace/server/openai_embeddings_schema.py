"""The body of POST /v1/embeddings: its fields.

In: a JSON object. Out: checked fields.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from headrace.core.backend import ModelInfo
from headrace.core.errors import InvalidParameter
from headrace.server.generation_schema import Strict, allowed
from headrace.server.openai_completions_schema import PROMPT

# OpenAI's own limit.
MAX_INPUTS = 2048


class EmbeddingFields(Strict):
    model: str = Field(description="the name of a served model, as GET /v1/models lists them")
    input: Any = Field(description=PROMPT)
    encoding_format: Literal["float", "base64"] | None = allowed("float or base64")
    dimensions: int | None = allowed("a whole number, 1 to the size of the model's vectors")
    pooling: Literal["last", "mean", "cls"] | None = allowed("last, mean, or cls of an encoder")
    prompt_name: str | None = allowed("the name of one of the model's prompts")
    normalize: bool | None = allowed("true or false")
    add_special_tokens: bool | None = allowed("true or false")
    truncate_prompt_tokens: int | None = allowed("a whole number, 1 or more; -1 is all that fit")
    truncation_side: Literal["left", "right"] | None = allowed("left; right of an encoder")
    priority: int | None = allowed("a whole number; lower runs earlier")
    cache_salt: str | None = allowed("a string")
    user: str | None = allowed("a string")


EMBEDDINGS_REFUSED: dict[str, str] = {
    "messages": "a vector is made of a text. Use input.",
    "embed_dtype": "numbers are 32-bit floats. Leave it out.",
    "endianness": "numbers are little-endian. Leave it out.",
    "chunked_prefill": "prompts are computed in chunks anyway. Leave it out.",
}
EMBEDDINGS_NEUTRAL: dict[str, tuple[object, ...]] = {
    "embed_dtype": ("float32",),
    "endianness": ("little", "native"),
}


def check_truncation_side(fields: EmbeddingFields, model: ModelInfo) -> None:
    """Each kind of model cuts at one side. Raises: InvalidParameter."""
    side = "left" if model.kind == "generate" else "right"
    if fields.truncation_side not in (None, side):
        raise InvalidParameter("truncation_side", fields.truncation_side, f"{side}, of this model")


def prompt_of(fields: EmbeddingFields, model: ModelInfo) -> str:
    """The text before every input. Raises: InvalidParameter."""
    name = fields.prompt_name or model.default_prompt_name
    if name is None:
        return ""
    if name not in model.prompts:
        known = ", ".join(model.prompts) or "nothing: this model has no prompts"
        raise InvalidParameter("prompt_name", name, known)
    return model.prompts[name]


def refuse_cut_prompt(num_tokens: int | None, model: ModelInfo) -> None:
    """A language model's texts are cut at their beginning. Raises: InvalidParameter."""
    if num_tokens is not None and model.kind == "generate":
        allowed = "nothing beside a prompt of a language model, which would be cut away"
        raise InvalidParameter("truncate_prompt_tokens", num_tokens, allowed)


def check_dimensions(fields: EmbeddingFields, vector_size: int) -> None:
    """Raises: InvalidParameter for a vector that cannot be."""
    wanted = fields.dimensions
    if wanted is not None and not 1 <= wanted <= vector_size:
        raise InvalidParameter("dimensions", wanted, f"1 to {vector_size}, this model's size")
