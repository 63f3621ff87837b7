"""The form an answer must have: a JSON schema, a regular expression, a choice, a grammar.

In: what a caller gave. Out: a frozen record with exactly one form, as text, checked for its types
and size. Whether the form can be held to is found out in `sampling`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Literal, get_args

from headrace.core.errors import InvalidGrammar, InvalidParameter, RequestError
from headrace.core.frozen import frozen

Form = Literal["json", "json_object", "regex", "choice", "grammar"]
FORMS: tuple[Form, ...] = get_args(Form)

MAX_SOURCE_BYTES = 128 * 1024
"""Of a schema, pattern, grammar or list of choices, as text."""

FRAMED = "form"
"""What a frame calls the form inside it: `@form`."""

_ONE_FORM = f"exactly one of {', '.join(FORMS)}"


@frozen(kw_only=True)
class StructuredOutputs:
    """Exactly one form. The whole answer has it, from its first token to its last.

    Fields:
        json: a JSON schema, as an object or as its text; kept as text.
        json_object: true for any JSON object.
        regex: what the whole answer must match; no look-around, no back-references.
        choice: texts, one of which is the answer.
        grammar: a context-free grammar in Lark (`start: ...`) or GBNF (`root ::= ...`).
        disable_any_whitespace: JSON without spaces and line breaks between its parts.
        frame: a grammar in Lark of which the form, `@form`, is a part; "" for none. The engine
            writes it, of what may stand before the form or instead of it.
        asked_as: the field of the request that asks for it, where the engine wrote the form.
    """

    json: Mapping[str, Any] | str | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    disable_any_whitespace: bool = False
    frame: str = ""
    asked_as: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.disable_any_whitespace, bool):
            _refuse("disable_any_whitespace", self.disable_any_whitespace, "true or false")
        if self.json_object is not None and not isinstance(self.json_object, bool):
            _refuse("json_object", self.json_object, "true, or leave it out")
        given = self._given
        if len(given) != 1:
            named = ", ".join(given) or "none of them"
            raise RequestError(
                f"structured_outputs has {named}; allowed: {_ONE_FORM}.",
                "structured_outputs",
                "invalid_value",
            )
        if self.json is not None:
            object.__setattr__(self, "json", _schema_text(self.json))
        for name in ("regex", "grammar"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value):
                _refuse(name, value, "a string that is not empty")
        if self.choice is not None:
            object.__setattr__(self, "choice", _choices(self.choice))
        if self.disable_any_whitespace and self.form not in ("json", "json_object"):
            _refuse("disable_any_whitespace", True, "only together with json or json_object")
        num_bytes = len(f"{self.source}{self.frame}".encode("utf-8", "surrogatepass"))
        if num_bytes > MAX_SOURCE_BYTES:
            raise InvalidGrammar(
                self.param, f"it has {num_bytes} bytes; allowed: at most {MAX_SOURCE_BYTES}."
            )

    @property
    def form(self) -> Form:
        return self._given[0]

    @property
    def _given(self) -> list[Form]:
        return [name for name in FORMS if (v := getattr(self, name)) is not None and v is not False]

    @property
    def param(self) -> str:
        """The field's name in error messages."""
        return self.asked_as or f"structured_outputs.{self.form}"

    @property
    def source(self) -> str:
        """The form as text; choices as a JSON list."""
        value = getattr(self, self.form)
        if isinstance(value, str):
            return value
        return "" if value is True else json.dumps(value)


def _refuse(name: str, value: object, allowed: str) -> None:
    raise InvalidParameter(f"structured_outputs.{name}", value, allowed)


def _schema_text(value: object) -> str:
    """A schema as text. The order of its properties, which answers follow, is kept."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        _refuse("json", value, "a JSON schema: an object, or its text")
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidGrammar("structured_outputs.json", f"it is not JSON: {error}.") from None


def _choices(value: object) -> tuple[str, ...]:
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if not is_list or not value or not all(isinstance(text, str) and text for text in value):  # type: ignore[attr-defined]
        _refuse("choice", value, "a list of at least one text, none of them empty")
    return tuple(value)  # type: ignore[arg-type]
