"""Which typed words are read here: all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from headrace.cli.app import COMMANDS, build_app
from headrace.cli.plain_values import PlainValue
from headrace.cli.plan import Choice


def parameters(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    context = command.make_context(name, [], resilient_parsing=True)
    for parameter in command.get_params(context):
        if parameter.name != "help":
            yield f"{name} {max(parameter.opts, key=len)}", parameter
    for below, inner in getattr(command, "commands", {}).items():
        yield from parameters(inner, f"{name} {below}")


@pytest.mark.parametrize("name", COMMANDS)
def test_no_flag_is_left_to_the_library(name: str) -> None:
    """It would import pydantic, and tell errors in the words of pydantic."""
    command: Any = get_command(build_app([name]))
    found = dict(parameters(command.commands[name], name))
    left = [flag for flag, p in found.items() if not isinstance(p.get_runtime_param(), PlainValue)]
    assert found and left == []


def test_a_choice_is_the_member_itself() -> None:
    """Commands ask with `is`."""
    command: Any = get_command(build_app(["plan"]))
    choice = dict(parameters(command.commands["plan"], "plan"))["plan --choice"]
    for given in ("smallest", Choice.SMALLEST):
        assert choice.get_runtime_param().coerce(given, choice, None) is Choice.SMALLEST
