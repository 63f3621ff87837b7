"""PromptTemplate: text with `{field}` in it, filled from a line of data.

`{a.b}` goes into objects, `{text:250}` takes the first 250 words, `{{` and `}}` are braces. In: a
template and a sample's fields. Out: text. Evaluates nothing: a data file cannot run code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen

_PART = re.compile(r"\{\{|\}\}|\{(?P<path>[A-Za-z_][\w.]*)(?::(?P<words>\d{1,6}))?\}|[{}]")
_ALLOWED = "text with {field}, {field.of.object} or {field:250} (words); {{ and }} are braces"


class MissingField(LookupError):
    """A line has no such field."""


@frozen
class PromptTemplate:
    """Checked when it is made. Raises: ConfigError naming `where`."""

    text: str
    where: str = "prompt"

    def __post_init__(self) -> None:
        for match in _PART.finditer(self.text):
            if match[0] in ("{", "}"):
                raise ConfigError(
                    self.where, self.text[max(0, match.start() - 20) : match.end() + 20], _ALLOWED
                )

    @property
    def paths(self) -> tuple[str, ...]:
        """The fields that it names."""
        found = (match["path"] for match in _PART.finditer(self.text))
        return tuple(dict.fromkeys(path for path in found if path))

    def render(self, fields: Mapping[str, Any]) -> str:
        """Fill it. Raises: MissingField."""

        def fill(match: re.Match[str]) -> str:
            if match["path"] is None:
                return match[0][0]
            text = as_text(look_up(fields, match["path"]))
            return first_words(text, int(match["words"])) if match["words"] else text

        return _PART.sub(fill, self.text)


def look_up(tree: Any, path: str) -> Any:
    """The value at a dotted path; "" is the tree. Raises: MissingField."""
    for key in path.split(".") if path else ():
        if not isinstance(tree, Mapping) or key not in tree:
            raise MissingField(path)
        tree = tree[key]
    return tree


def as_text(value: Any) -> str:
    """Texts as they are, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def first_words(text: str, count: int) -> str:
    """The first words with the spaces between them."""
    found = list(re.finditer(r"\S+", text))
    return text if len(found) <= count else text[: found[count - 1].end()]
