"""YAML bytes to plain values, strictly: a key given twice is an error. The door to yaml."""

from __future__ import annotations

from collections.abc import Hashable
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
                    str(shown), "given twice", "each key once", f"See line {line}."
                )
            seen.add(shown)
        return super().construct_mapping(node, deep)


def read_yaml(raw: bytes) -> object:
    """The value of a document; None of an empty one. Raises: ValueError, SettingNameError."""
    try:
        return yaml.load(raw.decode("utf-8"), Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None
