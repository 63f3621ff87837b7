"""Errors that cross a process: the front raises what the engine process raised.

In: an exception. Out: an ErrorRecord, and the exception of the same class and fields again.
"""

from __future__ import annotations

from typing import Any

from headrace.core import errors
from headrace.core.errors import EngineDied, HeadraceError
from headrace.engine.messages import ErrorRecord


def to_record(error: Exception) -> ErrorRecord:
    """Put an error into a message. What is not one of ours becomes an EngineDied."""
    if not isinstance(error, HeadraceError):
        return ErrorRecord(EngineDied.__name__, f"{type(error).__name__}: {error}", {})
    fields = {name: _plain(value) for name, value in vars(error).items()}
    return ErrorRecord(type(error).__name__, error.message, fields)


def to_error(record: ErrorRecord) -> HeadraceError:
    """The error that was put into a message; of a class that is not known here, an EngineDied."""
    kind: Any = getattr(errors, record.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, HeadraceError)):
        kind = EngineDied
    if not record.fields and issubclass(kind, EngineDied):
        return EngineDied(record.message, retryable=True)
    error: HeadraceError = kind.__new__(kind, record.message)
    vars(error).update(record.fields)
    return error


def _plain(value: object) -> object:
    """A field as it can be sent; what has no such form goes as its text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else str(value)
