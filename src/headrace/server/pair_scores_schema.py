"""The bodies of POST /score, /rerank and /classify: their fields.

In: a JSON object. Out: checked fields, and the texts in them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from headrace.core.errors import InvalidParameter, RequestError
from headrace.server.generation_schema import Strict, allowed

MAX_PAIRS = 2048
_MODEL = "the name of a served model, as GET /v1/models lists them"
_TEXTS = "a string or a list of strings, not empty"
_DOCUMENTS = "a list of strings, or of objects with text"


class _PoolingFields(Strict):
    model: str = Field(description=_MODEL)
    truncate_prompt_tokens: int | None = allowed("a whole number, 1 or more; -1 is all that fit")
    truncation_side: Literal["right"] | None = allowed("right")
    use_activation: bool | None = allowed("true or false: the head's own numbers")
    priority: int | None = allowed("a whole number; lower runs earlier")
    user: str | None = allowed("a string")


class ScoreFields(_PoolingFields):
    text_1: Any = allowed(f"{_TEXTS}; as many as text_2, or one for all")
    text_2: Any = allowed(_TEXTS)
    queries: Any = allowed("text_1 by another name")
    documents: Any = allowed("text_2 by another name")


class RerankFields(_PoolingFields):
    query: str = Field(description="a string")
    documents: Any = Field(description=_DOCUMENTS)
    top_n: int | None = allowed("a whole number, 1 or more; all without it")
    return_documents: bool | None = allowed("true or false")


class ClassifyFields(_PoolingFields):
    input: Any = Field(
        description="a string, a list of strings, a list of token ids, or a list of lists of them"
    )
    add_special_tokens: bool | None = allowed("true or false")


PAIRS_REFUSED: dict[str, str] = {
    "messages": "scores are made of texts. Send texts.",
    "instruction": "these models read no instruction. Leave it out.",
    "max_tokens_per_doc": "a pair is cut as a whole: use truncate_prompt_tokens.",
    "rank_fields": "documents are ranked by their text. Leave it out.",
    "mm_processor_kwargs": "these models take text only. Leave it out.",
}


def read_pairs(fields: ScoreFields) -> list[tuple[str, str]]:
    """The pairs of texts. Raises: RequestError."""
    first_name, first = _either(fields, "text_1", "queries")
    second_name, second = _either(fields, "text_2", "documents")
    firsts, seconds = _texts(first, first_name), _texts(second, second_name)
    if len(firsts) == 1:
        firsts = firsts * len(seconds)
    if len(firsts) != len(seconds):
        raise RequestError(
            f"{first_name} has {len(firsts)} texts and {second_name} has {len(seconds)}; allowed: "
            f"as many, or one in {first_name}.",
            first_name,
            "invalid_value",
        )
    return list(zip(firsts, seconds, strict=True))


def score_names(fields: ScoreFields) -> list[tuple[str, str]]:
    """What the caller calls the texts of each of `read_pairs`."""
    names = []
    for name, other in (("text_1", "queries"), ("text_2", "documents")):
        given, value = _either(fields, name, other)
        num_texts = len(value) if isinstance(value, list) else None
        names.append([given] if num_texts is None else [f"{given}[{i}]" for i in range(num_texts)])
    firsts, seconds = names
    return list(zip(firsts * len(seconds) if len(firsts) == 1 else firsts, seconds, strict=True))


def read_documents(value: object) -> list[str]:
    """Texts of documents, which may be objects. Raises: InvalidParameter."""
    if not isinstance(value, list) or not value:
        raise InvalidParameter("documents", value, _DOCUMENTS)
    documents = []
    for index, each in enumerate(_bounded(value, "documents")):
        text = each.get("text") if isinstance(each, dict) else each
        if not isinstance(text, str) or not text:
            raise InvalidParameter(f"documents[{index}]", each, "a text, or an object with one")
        documents.append(text)
    return documents


def _either(fields: ScoreFields, name: str, other: str) -> tuple[str, object]:
    values = {each: getattr(fields, each) for each in (name, other)}
    given = [each for each, value in values.items() if value is not None]
    if len(given) != 1:
        what = "given" if given else "missing"
        raise RequestError(
            f"{name} and {other} are both {what}; give one of them.",
            name,
            "invalid_value",
        )
    return given[0], values[given[0]]


def _texts(value: object, name: str) -> list[str]:
    if isinstance(value, str) and value:
        return [value]
    if not isinstance(value, list) or not value:
        raise InvalidParameter(name, value, _TEXTS)
    for index, each in enumerate(_bounded(value, name)):
        if not isinstance(each, str) or not each:
            raise InvalidParameter(f"{name}[{index}]", each, "a text that is not empty")
    return value


def _bounded(values: list[Any], name: str) -> list[Any]:
    if len(values) > MAX_PAIRS:
        raise RequestError(
            f"{name} has {len(values)} texts; allowed: at most {MAX_PAIRS}. Send several requests.",
            name,
            "invalid_value",
        )
    return values
