"""Operations of chat templates, refused where their operands would make them long.

In: a filter, a test, a call or an operator, and what it is given. Out: the operation within the
limits of template_limits.py. Knows which operations read a value to its last item, and which make
more than they read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from jinja2 import Environment
from jinja2.exceptions import SecurityError
from jinja2.nodes import EvalContext
from jinja2.runtime import Context

from headrace.text.template_limits import (
    MAX_ITEMS,
    ThreadSpending,
    check_format,
    check_join,
    check_lines,
    check_padding,
    check_places,
    check_product,
    check_replacement,
    check_search,
    check_size,
    check_split,
    check_whole,
    whole_iterator,
)

# They look at a value, or at its items one by one, but not into these.
_SHALLOW = frozenset({
    "abs", "attr", "batch", "boolean", "callable", "count", "d", "default", "defined", "false",
    "first", "float", "integer", "items", "iterable", "last", "length", "list", "map", "mapping",
    "none", "number", "random", "reject", "rejectattr", "reverse", "sameas", "select",
    "selectattr", "sequence", "slice", "true", "undefined",
})  # fmt: skip
# Of a text they make a list of characters or of words.
_CUTTING = frozenset({
    "batch", "groupby", "list", "map", "reject", "select", "slice", "sort", "sum", "title",
    "unique", "urlencode", "wordcount",
})  # fmt: skip
_PADDING = frozenset(
    {"batch", "center", "expandtabs", "indent", "ljust", "rjust", "slice", "zfill"}
)
_SCOPES = ("_block_vars", "_loop_vars")  # what jinja2 passes to calls inside of loops
_Arguments = tuple[Any, ...]


def limited(name: str, operation: Callable[..., Any], spent: ThreadSpending) -> Callable[..., Any]:
    """A filter or a test that raises SecurityError for what would take long."""
    check = _CHECKS.get(name)

    @functools.wraps(operation)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        spent.now.step()
        at = 1 if args and isinstance(args[0], Environment | EvalContext | Context) else 0
        values = tuple(whole_iterator(value) for value in args[at:])
        if name not in _SHALLOW:
            check_whole(*values, *kwargs.values())
        if name in _CUTTING and values and isinstance(values[0], str):
            check_size(len(values[0]), MAX_ITEMS, f"{name} takes texts of {{}} characters")
        if name in _PADDING:
            check_padding(*values[1:], *kwargs.values())
        if check is not None:
            check(*values, **kwargs)
        result = operation(*args[:at], *values, **kwargs)
        if isinstance(result, Iterator):
            return iter(spent.now.make(whole_iterator(result)))
        return spent.now.make(result)

    return bounded


def check_call(obj: Any, args: _Arguments, kwargs: Mapping[str, Any]) -> _Arguments:
    """What a function or a method is called with, iterators as lists. Raises: SecurityError."""
    args = tuple(whole_iterator(value) for value in args)
    kwargs = {name: value for name, value in kwargs.items() if name not in _SCOPES}
    check_whole(*args, *kwargs.values())
    method = getattr(obj, "__wrapped__", obj)  # jinja2 wraps str.format
    owner = getattr(method, "__self__", None)
    if isinstance(owner, str):
        if method.__name__ in _PADDING:
            check_padding(*args, *kwargs.values())
        check = _METHOD_CHECKS.get(method.__name__)
        if check is not None:
            check(owner, *args, **kwargs)
    elif isinstance(owner, list | tuple):
        check_whole(owner)  # which is compared with what is looked for
    return args


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Raises: SecurityError."""
    if operator in ("*", "**"):
        check_product(operator, left, right)
    elif operator == "%" and isinstance(left, str):
        check_format(left, right)


def _check_format(form: Any, *values: Any, **named: Any) -> None:
    check_format(str(form), *values, *named.values())


def _check_replace(text: Any, old: Any = "", new: Any = "", *_: Any, **named: Any) -> None:
    check_replacement(str(text), named.get("old", old), named.get("new", new))


def _check_join(items: Any, d: Any = "", *_: Any, **__: Any) -> None:
    check_join(str(d), items)


def _check_indent(text: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    check_lines(str(text), len(width) if isinstance(width, str) else width)


def _check_trim(text: Any, chars: Any = None) -> None:
    check_search(str(text), chars)


def _check_round(_: Any, precision: Any = 0, *__: Any, **___: Any) -> None:
    check_places(precision)


def _check_sum(_: Any, attribute: Any = None, start: Any = 0) -> None:
    if isinstance(start, Collection):
        raise SecurityError("sum takes a number to start with")


def _check_split(text: str, sep: Any = None, maxsplit: int = -1) -> None:
    check_split(text, sep, maxsplit)


def _check_split_from_end(text: str, sep: Any = None, maxsplit: int = -1) -> None:
    check_search(text, sep)
    check_split(text, sep, maxsplit)


def _check_search(text: str, wanted: Any = None, *_: Any) -> None:
    check_search(text, wanted)


def _check_tabs(text: str, tabsize: int = 8) -> None:
    check_replacement(text, "\t", " " * tabsize)


def _check_lines(text: str, *_: Any, **__: Any) -> None:
    check_lines(text)


_CHECKS: Mapping[str, Callable[..., None]] = {
    "format": _check_format,
    "indent": _check_indent,
    "join": _check_join,
    "replace": _check_replace,
    "round": _check_round,
    "sum": _check_sum,
    "trim": _check_trim,
}
_METHOD_CHECKS: Mapping[str, Callable[..., None]] = {
    "expandtabs": _check_tabs,
    "format": _check_format,
    "format_map": _check_format,
    "join": check_join,
    "lstrip": _check_search,
    "replace": _check_replace,
    "rfind": _check_search,
    "rindex": _check_search,
    "rpartition": _check_search,
    "rsplit": _check_split_from_end,
    "rstrip": _check_search,
    "split": _check_split,
    "splitlines": _check_lines,
    "strip": _check_search,
}
