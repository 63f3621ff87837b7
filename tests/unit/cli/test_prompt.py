"""What is asked, with every kind of stdin a process may have."""

from __future__ import annotations

import os
import pty
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from headrace.cli.prompt import read_prompt
from headrace.core.errors import ConfigError


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def pipe() -> Iterator[tuple[TextIO, int]]:
    """A pipe's reading end as stdin, and its writing end."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as stdin:
        yield stdin, writer


def test_a_piped_text_goes_below_the_prompt(pipe: tuple[TextIO, int], notes: list[str]) -> None:
    stdin, writer = pipe
    os.write(writer, "Zeile\r\nß\n".encode())
    os.close(writer)
    assert read_prompt("Summarize:", stdin, notes.append) == "Summarize:\n\nZeile\nß\n"
    assert notes == []


def test_a_file_and_a_socket_are_read_too(tmp_path: Path, notes: list[str]) -> None:
    (tmp_path / "a").write_text("file")
    with (tmp_path / "a").open() as stdin:
        assert read_prompt("p", stdin, notes.append) == "p\n\nfile"
    ours, theirs = socket.socketpair()
    with theirs, ours, ours.makefile() as stdin:
        theirs.sendall(b"socket")
        theirs.close()
        assert read_prompt("p", stdin, notes.append) == "p\n\nsocket"


def test_without_a_text_there_is_the_prompt(
    pipe: tuple[TextIO, int], tmp_path: Path, notes: list[str]
) -> None:
    stdin, writer = pipe
    os.close(writer)
    assert read_prompt("p", stdin, notes.append) == "p"
    with open(os.devnull) as device:
        assert read_prompt("p", device, notes.append) == "p"
    with open(tmp_path / "x", "w+") as closed:
        os.close(os.dup(closed.fileno()))
    assert read_prompt("p", closed, notes.append) == "p"
    assert read_prompt("p", None, notes.append) == "p"
    assert notes == []


def test_a_pipe_that_stays_silent_does_not_hang(pipe: tuple[TextIO, int], notes: list[str]) -> None:
    stdin, writer = pipe
    with pytest.raises(ConfigError, match=r"gave nothing for 0\.05 s.* < /dev/null"):
        read_prompt("p", stdin, notes.append, silence_s=0.05)
    os.close(writer)
    assert len(notes) == 1 and "waiting for text on stdin" in notes[0]


@pytest.mark.parametrize("given", [None, "-", "p"])
def test_what_is_not_utf8_names_the_byte(
    given: str | None, pipe: tuple[TextIO, int], notes: list[str]
) -> None:
    stdin, writer = pipe
    os.write(writer, b"caf\xe9 au lait")
    os.close(writer)
    with pytest.raises(ConfigError, match=r"stdin is 'caf\\xe9 au lai'; .* Byte 3, .* is 0xe9\."):
        read_prompt(given, stdin, notes.append)


def test_a_terminal_is_not_waited_for(notes: list[str]) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, closefd=True) as stdin:
        assert read_prompt("p", stdin, notes.append) == "p"
        with pytest.raises(ConfigError, match="Try: headrace run"):
            read_prompt(None, stdin, notes.append)
    os.close(ours)


@pytest.mark.parametrize("given", [None, "-", "", " "])
def test_nothing_to_ask(given: str | None, notes: list[str]) -> None:
    with pytest.raises(ConfigError, match="PROMPT is"):
        read_prompt(given, None, notes.append)
