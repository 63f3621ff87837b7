"""Errors cross a process with their class, text and fields."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.core.errors import (
    ConfigError,
    EngineDied,
    HeadraceError,
    InvalidGrammar,
    MissingTensor,
    ModelFileError,
    OutOfMemory,
)
from headrace.engine.error_record import to_error, to_record
from headrace.engine.frames import _decoder, encode
from headrace.engine.messages import EngineNotStarted


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("engine.isa", "amx", "generic", "This CPU has no AMX."),
        ModelFileError("It is damaged."),
        MissingTensor("embed", "a.gguf"),
        OutOfMemory("Too much.", needed_bytes=2**40, available_bytes=5),
        InvalidGrammar("structured_outputs.regex", "it is broken."),
        EngineDied("gone", retryable=True),
    ],
    ids=lambda error: type(error).__name__,
)
def test_there_and_back(error: HeadraceError) -> None:
    frame = encode(EngineNotStarted(to_record(error)))
    again = to_error(_decoder(2).decode(frame[5:]).error)
    assert type(again) is type(error)
    assert (again.message, str(again)) == (error.message, str(error))
    assert vars(again) == vars(error)


def test_a_field_of_another_kind_goes_as_its_text() -> None:
    error = to_error(to_record(ConfigError("hub.home", Path("/x"), "a folder")))
    assert isinstance(error, ConfigError)
    assert (error.value, error.allowed) == ("/x", "a folder")


def test_others_become_the_end_of_an_engine() -> None:
    error = to_error(to_record(ZeroDivisionError("by zero")))
    assert isinstance(error, EngineDied)
    assert (error.message, error.retryable) == ("ZeroDivisionError: by zero", True)
    assert vars(error) == vars(EngineDied("", retryable=True))
