"""Wishes that only some chat templates read: how hard to think, how much to say, who speaks.

In: fields of a body, whatever its dialect calls them. Out: variables of the model's template, and
the names of fields that had no effect because the template does not read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headrace.core.backend import ModelInfo
from headrace.core.config import ServerConfig
from headrace.core.errors import UnsupportedParameter
from headrace.core.frozen import frozen
from headrace.core.message import Message


@frozen
class Wish:
    """A field, the template's variable for it, its value, and the value that asks for nothing."""

    field: str
    variable: str
    value: object
    neutral: str


def read_wishes(
    wishes: Iterable[Wish], model: ModelInfo, config: ServerConfig
) -> tuple[dict[str, Any], list[str]]:
    """Variables of the template, and fields that it does not read.

    Raises: UnsupportedParameter for the latter, unless the setting `unread_parameters` is warn.
    """
    variables: dict[str, Any] = {}
    unread = []
    for wish in wishes:
        if wish.value is not None and wish.variable in model.template_variables:
            variables[wish.variable] = wish.value
        elif wish.value not in (None, wish.neutral):
            if config.unread_parameters == "error":
                raise UnsupportedParameter(
                    wish.field,
                    "this model's chat template does not read it. "
                    f"Leave it out or send {wish.neutral}.",
                )
            unread.append(wish.field)
    return variables, unread


def unread_names(
    variables: Mapping[str, Any], model: ModelInfo, messages: Sequence[Message] = ()
) -> list[str]:
    """Given template variables, and names of messages, that the model's template does not read."""
    unread = sorted(set(variables) - model.template_variables)
    named = [] if model.reads_message_names else [m.name is not None for m in messages]
    return [
        *(f"chat_template_kwargs.{name}" for name in unread),
        *(f"messages[{index}].name" for index, has_name in enumerate(named) if has_name),
    ]
