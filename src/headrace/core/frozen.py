"""`@frozen`: this program's records, dataclasses whose constructor is compiled when it is called.

`dataclasses` finds the fields and makes the slots. It would also compile six methods a class, half
a millisecond, for hundreds of classes that most processes import and never make. Here the
constructor waits for the first record, and the other methods need no code of their own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from reprlib import recursive_repr
from typing import Any, TypeVar, dataclass_transform, overload

Class = TypeVar("Class", bound=type)


@overload
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: Class, /) -> Class: ...
@overload
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(*, kw_only: bool = ..., eq: bool = ...) -> Callable[[Class], Class]: ...
def frozen(cls: Any = None, /, *, kw_only: bool = False, eq: bool = True) -> Any:
    """Make of a class what `dataclass(frozen=True, slots=True)` would.

    With `eq=False` records are equal to themselves alone. Methods that the class has are left as
    they are. Fields are not inherited.
    """

    def make(cls: Any) -> Any:
        own = set(vars(cls))
        cls.__doc__ = cls.__doc__ or cls.__name__  # dataclass would make it of a signature: 2 ms
        made: Any = dataclass(init=False, repr=False, eq=False, slots=True, kw_only=kw_only)(cls)
        methods = _SHARED | {"__init__": _first_init(made)} | (_comparison(made) if eq else {})
        for name in methods.keys() - own:
            setattr(made, name, methods[name])
        return made

    return make if cls is None else make(cls)


def _first_init(cls: Any) -> Callable[..., None]:
    """A constructor that puts the compiled one in its place and goes on there."""

    def first_init(self: object, /, *args: object, **kwargs: object) -> None:
        cls.__init__ = _compile_init(cls)
        cls.__init__(self, *args, **kwargs)

    return first_init


def _compile_init(cls: Any) -> Callable[..., None]:
    """The constructor with the fields as parameters; each is set through its slot."""
    scope: dict[str, Any] = {"__name__": cls.__module__, "MISSING": MISSING}
    lines, positional = [], ["self"]
    named: list[str] = []
    for item in fields(cls):
        value, parameter = _source(item, scope)
        if item.init:
            (named if item.kw_only else positional).append(parameter)
        if value:
            scope[f"__set_{item.name}"] = vars(cls)[item.name].__set__
            lines.append(f"    __set_{item.name}(self, {value})")
    if hasattr(cls, "__post_init__"):
        lines.append("    self.__post_init__()")
    parameters = ", ".join([*positional, *(["*", *named] if named else [])])
    source = "\n".join([f"def __init__({parameters}):", *(lines or ["    pass"])])
    exec(source, scope)  # noqa: S102 - text of names alone, as dataclasses does it
    init: Callable[..., None] = scope["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__annotations__ = {item.name: item.type for item in fields(cls) if item.init}
    return init


def _source(item: Field[Any], scope: dict[str, Any]) -> tuple[str, str]:
    """What a field is set to ("" for nothing), and its parameter. Mutates: scope."""
    name, default = item.name, f"__default_{item.name}"
    if item.default_factory is not MISSING:
        scope[default] = item.default_factory
        made = f"{default}()"
        return f"{made} if {name} is MISSING else {name}" if item.init else made, f"{name}=MISSING"
    if item.default is not MISSING:
        scope[default] = item.default
        return name if item.init else default, f"{name}={default}"
    return name if item.init else "", name


def _comparison(cls: Any) -> dict[str, Any]:
    """Equality and hash of the fields' values."""
    # The class in front: of a single name attrgetter makes no tuple.
    values = attrgetter("__class__", *(item.name for item in fields(cls) if item.compare))

    def __eq__(self: object, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return bool(values(self) == values(other))

    def __hash__(self: object) -> int:
        return hash(values(self))

    return {"__eq__": __eq__, "__hash__": __hash__}


@recursive_repr()
def _repr(self: Any) -> str:
    values = [f"{item.name}={getattr(self, item.name)!r}" for item in fields(self) if item.repr]
    return f"{type(self).__qualname__}({', '.join(values)})"


def _refuse_assignment(self: object, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_deletion(self: object, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _get_state(self: Any) -> list[Any]:
    return [getattr(self, item.name) for item in fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for item, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, item.name, value)


class _Signature:
    """What `inspect` and `help` show, whether the constructor is compiled yet or not."""

    def __get__(self, instance: object, cls: type) -> inspect.Signature:
        signature = inspect.signature(_compile_init(cls))
        return signature.replace(parameters=[*signature.parameters.values()][1:])


_SHARED: dict[str, Any] = {
    "__repr__": _repr,
    "__setattr__": _refuse_assignment,
    "__delattr__": _refuse_deletion,
    "__getstate__": _get_state,
    "__setstate__": _set_state,
    "__signature__": _Signature(),
}
