"""What each kind of failure becomes."""

from __future__ import annotations

import errno
import io
import sys

import pytest

from headrace.cli.errors import run_guarded
from headrace.core.errors import ConfigError, ModelNotFound


def raising(error: BaseException) -> int:
    def run() -> None:
        raise error

    return run_guarded(run)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError("a.b", 1, "2"), 2, "error: a.b is 1; allowed: 2.\n"),
        (ConfigError("--a", None, "2"), 2, "error: --a is not given; allowed: 2.\n"),
        (ModelNotFound("x"), 1, "error: The model 'x' does not exist here.\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
        (SystemExit(7), 7, ""),
        (SystemExit(), 0, ""),
        (OSError(errno.ENOSPC, "No space left", "/m"), 1, "error: /m: no space left on the disk."),
        (PermissionError(errno.EACCES, "Permission denied", "/m"), 1, "Check its permissions"),
        (OSError("strange"), 1, "error: strange\n"),
        (ZeroDivisionError("division by zero"), 1, "This is a bug in headrace"),
    ],
)
def test_failures(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(error) == code
    assert text in capsys.readouterr().err


def test_success() -> None:
    assert run_guarded(lambda: None) == 0


def test_a_character_that_stdout_does_not_have(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin1"))
    assert run_guarded(lambda: sys.stdout.write("a 你")) == 1
    assert capsys.readouterr().err == (
        "error: stdout is written in latin1, which has no '\\u4f60' (U+4F60). Set "
        "PYTHONIOENCODING=utf-8, or leave it out and choose a locale of UTF-8, such as "
        "LC_ALL=C.UTF-8.\n"
    )
    assert run_guarded(lambda: "你".encode("ascii")) == 1
    assert "This is a bug in headrace" in capsys.readouterr().err
