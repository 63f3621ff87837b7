"""The sandbox chat templates run in: Hugging Face's rules, and limits on what a template may spend.

In: template source, which comes with a model and is not trusted. Out: a compiled template whose
rendering is bounded in steps and size. Knows nothing of messages.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from headrace.core.clock import Clock

# Qwen2.5's template takes some 15 steps a message. A million steps take about 2 seconds.
MAX_STEPS = 1_000_000
MAX_TEXT_CHARACTERS = 64 * 1024 * 1024
_MAX_PADDING = 1_000_000
_MAX_EXPONENT = 1_000
_WIDE_FORMAT = re.compile(r"%[^%a-zA-Z]*(\*|\d{6})")


class GenerationTag(Extension):
    """`{% generation %}`, which marks an assistant's words for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it as an instance variable

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller: Callable[[], str]) -> str:
        return caller()


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Sandbox that counts loop rounds, lookups, calls and operators of a rendering."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, clock: Clock) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
        )
        self._spent = threading.local()
        self.filters["tojson"] = _tojson
        for name in ("batch", "center", "format", "indent", "slice"):
            self.filters[name] = _limited(self.filters[name])
        self.globals.pop("lipsum", None)
        self.globals["raise_exception"] = _raise_exception
        self.globals["dict"] = _TemplateDict()
        self.globals["namespace"] = _TemplateNamespace

        def strftime_now(form: str) -> str:
            return datetime.fromtimestamp(clock.unix_s()).strftime(form)

        self.globals["strftime_now"] = strftime_now

    def render_bounded(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        """Render.

        Raises: SecurityError over a limit; whatever else the template raises.
        """
        self._spent.steps = 0
        parts: list[str] = []
        size = 0
        for part in template.generate(variables):
            size += len(part)
            if size > MAX_TEXT_CHARACTERS:
                raise SecurityError(f"the text exceeds {MAX_TEXT_CHARACTERS} characters")
            parts.append(part)
        return "".join(parts)

    def charge(self) -> None:
        """Count a step of the rendering in this thread."""
        steps = getattr(self._spent, "steps", 0) + 1
        self._spent.steps = steps
        if steps > MAX_STEPS:
            raise SecurityError(f"the template takes more than {MAX_STEPS} steps")

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            count = nodes.Call(nodes.EnvironmentAttribute("charge"), [], [], None, None)
            loop.body.insert(0, nodes.ExprStmt(count).set_lineno(loop.lineno))
        return tree

    def getattr(self, obj: Any, attribute: str) -> Any:
        self.charge()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self.charge()
        return super().getitem(obj, argument)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.charge()
        if obj == self.charge:
            return ""
        if isinstance(getattr(obj, "__self__", None), str):
            _check_padding(*args, *kwargs.values())
        return _bounded(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.charge()
        if operator == "*":
            _check_repetition(left, right)
            _check_repetition(right, left)
        elif operator == "**" and isinstance(right, int | float) and right > _MAX_EXPONENT:
            raise SecurityError(f"an exponent of {right} is too large")
        elif operator == "%" and isinstance(left, str) and _WIDE_FORMAT.search(left):
            raise SecurityError("a format asks for too many characters")
        return _bounded(super().call_binop(context, operator, left, right))


def _check_repetition(sequence: object, count: object) -> None:
    if isinstance(sequence, str | list | tuple) and isinstance(count, int):
        size = len(sequence) * count
        if size > MAX_TEXT_CHARACTERS:
            raise SecurityError(f"a repetition makes {size} elements")


def _check_padding(*values: object) -> None:
    for value in values:
        if isinstance(value, int) and value > _MAX_PADDING:
            raise SecurityError(f"a text operation asks for {value} characters or parts")


def _limited(operation: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that refuses huge widths, and formats that ask for them."""

    @functools.wraps(operation)
    def limited(*args: Any, **kwargs: Any) -> Any:
        _check_padding(*args, *kwargs.values())
        if any(isinstance(value, str) and _WIDE_FORMAT.search(value) for value in args[:1]):
            raise SecurityError("a format asks for too many characters")
        return _bounded(operation(*args, **kwargs))

    return limited


def _bounded(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT_CHARACTERS:
        raise SecurityError(f"a text exceeds {MAX_TEXT_CHARACTERS} characters")
    return value


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: jinja2's own filter escapes HTML, which models do not expect."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


class _TemplateDict:
    """`dict` for templates, without the type's attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _TemplateNamespace(Namespace):
    """`namespace()` that takes no underscore names, which could reach Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` stays free as a name
        self, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name with a leading underscore: {name!r}")
