"""Typed words of the command line: read here, and not by the validation library that typer loads.

In: parameters of a typer command. Out: the same, with values of the plain types and choices read
in a few lines; typer would import pydantic for them, which costs every start 0.15 s, and tell its
errors in that library's words. Other types are left to it. Where a typer has no such seam, nothing
is changed but that.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from typer.core import TyperCommand, TyperGroup

from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen

# What reads a type, and how its values are called.
_Reader = tuple[Callable[[Any], Any], str]
_READERS: dict[Any, _Reader] = {
    int: (int, "a whole number"),
    float: (float, "a number"),
    str: (str, "a text"),
    bool: (bool, "nothing"),
    Path: (Path, "a path"),
}


class _PlainValues:
    """Mixed into a command class of typer."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, with `--help`, which is made when they are asked for."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            described: Any = getattr(parameter, "type_descriptor", None)
            annotation = getattr(described, "annotation", None)
            is_list = get_origin(annotation) is list
            reader = _find_reader(get_args(annotation)[0] if is_list else annotation)
            if reader is not None:
                plain = PlainValue(*reader, is_list, described.parameter_info.min)
                parameter.get_runtime_param = lambda plain=plain: plain
        return parameters

    def make_parser(self, ctx: Any) -> Any:
        """The parser, which refuses a second value of a flag that has one: the first had no effect.

        Raises: ConfigError, when it parses.
        """
        parser: Any = super().make_parser(ctx)  # type: ignore[misc]
        parse = parser.parse_args

        def parse_once(args: list[str]) -> Any:
            found = parse(args)
            for parameter, times in Counter(found[2]).items():
                is_single = parameter.param_type_name == "option" and not parameter.multiple
                if times > 1 and is_single and not parameter.is_flag:
                    load = importlib.import_module("headrace.config.load")
                    name = max(parameter.opts, key=len)
                    raise load.SettingNameError(name, f"given {times} times", "one value")
            return found

        parser.parse_args = parse_once
        return parser


def _find_reader(kind: Any) -> _Reader | None:
    """What reads a plain type, an enumeration or a Literal of texts; None for other types."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        choices = {member.value: member for member in kind}
    elif get_origin(kind) is Literal:
        choices = {text: text for text in get_args(kind)}
    else:
        return _READERS.get(kind)

    def choose(value: Any) -> Any:
        # A default is a member already; what was typed may be equal to one.
        return next((member for text, member in choices.items() if value in (text, member)), None)

    return choose, ", ".join(choices)


class PlainCommand(_PlainValues, TyperCommand):
    """A command whose plain values are read by PlainValue."""


class ServeCommand(PlainCommand):
    """`serve`, typed by those who know other servers: their flags are told what they are here."""

    elsewhere = "FLAGS"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises: the usage error of the library, with the way of headrace."""
        words = [word.partition("=")[0] for word in args]
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            others = importlib.import_module("headrace.cli.other_servers")
            flags = getattr(others, self.elsewhere)
            named = getattr(error, "option_name", None) or "?"
            if not named.startswith("--"):
                # Short flags are read letter by letter, and others have longer ones.
                named = next((w for w in words if w in flags and w.startswith(named)), named)
            here = flags.get(named)
            if here is not None and hasattr(error, "possibilities"):
                error.possibilities = None
                error.message = f"No such option: {named}. Here: {here}."  # type: ignore[attr-defined]
            raise


class BenchCommand(ServeCommand):
    """A measurement, typed by those who know vLLM's."""

    elsewhere = "BENCH_FLAGS"


class PlainGroup(_PlainValues, TyperGroup):
    """A command of several."""


@frozen
class PlainValue:
    """Reads one parameter. `allowed` are its values in words; `least` bounds it from below."""

    read: Callable[[Any], Any]
    allowed: str
    is_list: bool
    least: float | None

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value of what was typed, or of a default. Raises: ConfigError."""
        if value is None:
            return () if self.is_list else None
        return [self._read(v, param) for v in value] if self.is_list else self._read(value, param)

    def _read(self, value: Any, param: Any) -> Any:
        allowed = self.allowed
        if self.least is not None:
            allowed = f"{allowed}, {self.least} or more"
        try:
            found = self.read(value)
        except ValueError:
            found = None
        if found is None or (self.least is not None and found < self.least):
            is_flag = param.param_type_name == "option"
            name = max(param.opts, key=len) if is_flag else param.human_readable_name
            raise ConfigError(name, value, allowed)
        return found
