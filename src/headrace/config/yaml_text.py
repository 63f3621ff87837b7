"""YAML bytes to plain values, strictly: a key given twice is an error. The door to yaml."""

from __future__ import annotations

from collections.abc import Hashable
from decimal import Decimal, InvalidOperation
from typing import Any

import yaml

from headrace.config.load import SettingNameError


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            shown = key if isinstance(key, str | int | float | bool) else repr(key)
            if shown in seen:
                line = key_node.start_mark.line + 1
                raise SettingNameError(
                    str(shown), f"given twice, again in line {line}", "each key once"
                )
            seen.add(shown)
        return super().construct_mapping(node, deep)


class _ExactLoader(_StrictLoader):
    """Numbers with a point as they are written: money does not go through binary fractions."""


def _to_decimal(loader: _ExactLoader, node: yaml.ScalarNode) -> Decimal:
    text = str(loader.construct_scalar(node)).replace("_", "")
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text} is no decimal number.") from None
    if not number.is_finite():
        raise ValueError(f"{text} is no finite number.")
    return number


_ExactLoader.add_constructor("tag:yaml.org,2002:float", _to_decimal)


def read_yaml(raw: bytes, is_exact: bool = False) -> object:
    """The value of a document; None of an empty one. With `is_exact` fractions are Decimals.

    Raises: ValueError, SettingNameError.
    """
    loader = _ExactLoader if is_exact else _StrictLoader
    try:
        return yaml.load(decode_text(raw), Loader=loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        # Nobody called the text anything.
        shown = str(error).replace(' in "<unicode string>",', ",")
        raise ValueError(" ".join(shown.split())) from None


def decode_text(raw: bytes) -> str:
    """Text of a file. Raises: ValueError that names the first byte that is none."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"Byte {error.start + 1} is not UTF-8.") from None
