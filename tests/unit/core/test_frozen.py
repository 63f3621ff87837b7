"""`frozen` against what it stands for: the same classes made by `dataclass` are the oracle."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar

import pytest

from headrace.core.frozen import frozen

Shapes = dict[str, Any]


def shapes(plain: Any, by_name: Any, by_identity: Any) -> Shapes:
    """One class of each kind that the program has."""

    @plain
    class Pair:
        """Two values."""

        left: int
        right: str = "r"

    @plain
    class Single:
        """Of one name attrgetter gives no tuple."""

        value: object

    @plain
    class Empty:
        """Nothing but a class."""

    @plain
    class Filled:
        """Defaults that are made, fields that are no parameters, names like those of defaults."""

        model: str
        default_model: str = "d"
        names: list[str] = field(default_factory=list)
        default_names: tuple[str, ...] = ()
        total: int = field(init=False, default=7)
        made: dict[str, int] = field(init=False, default_factory=dict)
        unseen: int = field(default=1, repr=False, compare=False)
        shared: ClassVar[int] = 3

    @plain
    class Checked:
        """Set once more when all fields are there."""

        value: int
        unset: int = field(init=False)

        def __post_init__(self) -> None:
            if self.value < 0:
                raise ValueError("negative")
            object.__setattr__(self, "unset", self.value + 1)

    @plain
    class Named:
        """Says itself what it looks like."""

        value: int

        def __repr__(self) -> str:
            return "own"

        @property
        def double(self) -> int:
            return 2 * self.value

    @by_name
    class ByName:
        """Parameters without a place."""

        left: int = 1
        right: int

    @by_identity
    class Identical:
        """Equal to itself alone."""

        value: int

    found = locals()
    return {name: made for name, made in found.items() if isinstance(made, type)}


def standard(**options: Any) -> Callable[[type], type]:
    return dataclass(frozen=True, slots=True, **options)


OURS = shapes(frozen, frozen(kw_only=True), frozen(eq=False))
THEIRS = shapes(standard(), standard(kw_only=True), standard(eq=False))
GIVEN: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "Pair": [((1,), {}), ((1, "x"), {}), ((), {"right": "x", "left": 1}), ((1, "r"), {})],
    "Single": [((1,), {}), ((None,), {}), ((float("nan"),), {})],
    "Empty": [((), {})],
    "Filled": [(("m",), {}), (("m", "n", ["a"], ("b",), 5), {}), (("m",), {"unseen": 9})],
    "Checked": [((1,), {}), ((2,), {})],
    "Named": [((1,), {})],
    "ByName": [((), {"right": 2}), ((), {"right": 2, "left": 3})],
    "Identical": [((1,), {}), ((1,), {})],
}
WRONG: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("Pair", (), {}),
    ("Pair", (1, "x", 3), {}),
    ("Pair", (1,), {"middle": 2}),
    ("Pair", (1,), {"left": 2}),
    ("Empty", (1,), {}),
    ("Filled", ("m",), {"total": 1}),
    ("Checked", (-1,), {}),
    ("ByName", (1, 2), {}),
    ("ByName", (), {"left": 2}),
]
KINDS = sorted(GIVEN)


def made(classes: Shapes, kind: str) -> list[Any]:
    return [classes[kind](*args, **kwargs) for args, kwargs in GIVEN[kind]]


def test_all_shapes_are_tried() -> None:
    assert set(OURS) == set(THEIRS) == set(GIVEN)


@pytest.mark.parametrize("kind", KINDS)
def test_values_texts_and_comparisons_are_those_of_dataclass(kind: str) -> None:
    ours, theirs = made(OURS, kind), made(THEIRS, kind)
    assert [asdict(record) for record in ours] == [asdict(record) for record in theirs]
    assert [repr(record) for record in ours] == [repr(record) for record in theirs]
    equal = [[one == other for other in ours] for one in ours]
    assert equal == [[one == other for other in theirs] for one in theirs]
    assert [one != theirs[0] for one in ours] == [True] * len(ours)
    assert OURS[kind].__match_args__ == THEIRS[kind].__match_args__
    assert OURS[kind].__slots__ == THEIRS[kind].__slots__


@pytest.mark.parametrize("kind", ["Pair", "Single", "Empty", "Checked", "ByName", "Identical"])
def test_equal_records_have_equal_hashes(kind: str) -> None:
    records = made(OURS, kind)
    assert len(set(records)) == len(set(made(THEIRS, kind)))
    for one in records:
        assert all(hash(one) == hash(other) for other in records if one == other)


def test_what_has_no_hash_has_none_here_either() -> None:
    for classes in (OURS, THEIRS):
        with pytest.raises(TypeError, match="unhashable"):
            hash(made(classes, "Filled")[0])


@pytest.mark.parametrize(("kind", "args", "kwargs"), WRONG)
def test_wrong_arguments_are_refused_in_the_same_words(
    kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises((TypeError, ValueError)) as expected:
        THEIRS[kind](*args, **kwargs)
    for _ in range(2):  # the first call may be the one that compiles
        with pytest.raises(type(expected.value)) as found:
            OURS[kind](*args, **kwargs)
        assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("kind", KINDS)
def test_records_do_not_change(kind: str) -> None:
    for record in (made(OURS, kind)[0], made(THEIRS, kind)[0]):
        for name in [*(item.name for item in fields(record)), "other"]:
            with pytest.raises((FrozenInstanceError, TypeError)):
                setattr(record, name, 1)
            with pytest.raises((FrozenInstanceError, TypeError)):
                delattr(record, name)
        assert not hasattr(record, "__dict__")


@pytest.mark.parametrize("kind", KINDS)
def test_signatures_are_those_of_dataclass(kind: str) -> None:
    fresh = shapes(frozen, frozen(kw_only=True), frozen(eq=False))[kind]
    expected = [
        (one.name, one.kind, one.default is one.empty, one.annotation)
        for one in inspect.signature(THEIRS[kind]).parameters.values()
    ]
    for cls in (fresh, OURS[kind]):
        parameters = inspect.signature(cls).parameters.values()
        assert [
            (one.name, one.kind, one.default is one.empty, one.annotation) for one in parameters
        ] == expected


def test_defaults_are_made_for_each_record() -> None:
    first, second = OURS["Filled"]("a"), OURS["Filled"]("b")
    assert first.names is not second.names
    assert first.made is not second.made
    assert OURS["Filled"].shared == 3


def test_standard_functions_work_on_records() -> None:
    record = OURS["Pair"](1)
    assert is_dataclass(record)
    assert replace(record, left=2) == OURS["Pair"](2)
    assert copy.copy(record) == copy.deepcopy(record) == record
    assert asdict(copy.deepcopy(OURS["Filled"]("m", names=["a"])))["names"] == ["a"]
    match record:
        case object(left=left):
            assert left == 1


@frozen
class Sent:
    """At the top of a module, where pickle finds it."""

    left: int
    names: tuple[str, ...] = ()


def test_records_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(Sent(1, ("a",)))) == Sent(1, ("a",))  # noqa: S301


def test_a_class_that_is_never_called_compiles_nothing() -> None:
    """Counted in an interpreter of its own, where nobody else compiles."""
    code = """
import builtins
from headrace.core.frozen import frozen
compiled = []
run = builtins.exec
builtins.exec = lambda *given: compiled.append(given[0]) or run(*given)
@frozen
class Pair:
    "Two values."
    left: int
    right: int = 1
assert compiled == [], compiled
Pair(1), Pair(2), repr(Pair(3)), Pair(1) == Pair(2), hash(Pair(1))
assert len(compiled) == 1, compiled
"""
    subprocess.run([sys.executable, "-c", code], check=True)
