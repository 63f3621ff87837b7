"""Fields of bodies: what is wrong is told once, however much of it there is."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

import headrace.server
from headrace.server.generation_schema import Strict

MANY = 1000
WRONG = ([[[]]] * MANY, [{}] * MANY, ["x"] * MANY, {f"{i}": [] for i in range(MANY)})


def schemas() -> Iterator[type[Strict]]:
    for module in pkgutil.iter_modules(headrace.server.__path__):
        importlib.import_module(f"headrace.server.{module.name}")
    waiting = Strict.__subclasses__()
    while waiting:
        schema = waiting.pop()
        yield schema
        waiting += schema.__subclasses__()


FIELDS = sorted(
    {
        (schema.__name__, name): (schema, name)
        for schema in schemas()
        for name in schema.model_fields
    }.values(),
    key=lambda entry: (entry[0].__name__, entry[1]),
)


def test_what_is_allowed_is_told_in_our_words() -> None:
    """A field without a description would be told in those of the library."""
    bare = [(s.__name__, name) for s, name in FIELDS if not s.model_fields[name].description]
    assert bare == []


@pytest.mark.parametrize(("schema", "name"), FIELDS)
def test_a_long_list_of_wrong_members_is_few_errors(schema: type[Strict], name: str) -> None:
    """One error for each of millions of members took gigabytes and stopped every stream."""
    for value in WRONG:
        try:
            schema.model_validate({name: value})
        except ValidationError as error:
            of_field = [each for each in error.errors() if each["loc"][0] == name]
            assert len(of_field) <= 4, (name, len(of_field))
