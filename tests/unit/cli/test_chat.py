"""A conversation by lines: commands, several lines, stopping, saving."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.fake_backend import FakeBackend
from headrace.cli.chat import HELP, Conversation, ReadLine, converse, read_text
from headrace.core.errors import CapacityError
from headrace.core.request import GenerateRequest, SamplingParams

TEXT = "Hello, wörld 🌊!"


def typed(*lines: str | type[BaseException]) -> ReadLine:
    """A person at the keyboard; Ctrl-D after the last line."""
    left: Iterator[str | type[BaseException]] = iter(lines)

    def read_line(_: str) -> str:
        line = next(left, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return read_line


def talk(
    backend: FakeBackend, *lines: str | type[BaseException], system: str | None = None
) -> tuple[Conversation, str]:
    conversation = Conversation(backend, SamplingParams(), 50, system)
    shown: list[str] = []
    with asyncio.Runner() as runner:
        converse(conversation, runner, typed(*lines), shown.append)
    return conversation, "".join(shown)


def asked(request: GenerateRequest) -> list[tuple[str, str | None]]:
    return [(message.role, message.content) for message in request.messages or ()]


def test_turns_add_up() -> None:
    backend = FakeBackend()
    _, shown = talk(backend, "one", "", "two", system="be brief")
    assert shown == f"{TEXT}\n\n{TEXT}\n\n\n"
    assert asked(backend.requests[1]) == [
        ("system", "be brief"),
        ("user", "one"),
        ("assistant", TEXT),
        ("user", "two"),
    ]
    assert backend.requests[0].default_max_tokens == 50


def test_commands() -> None:
    backend = FakeBackend()
    conversation, shown = talk(
        backend, "/help", "one", "/reset", "two", "/system be kind", "three", "/what", "/exit", "x"
    )
    assert shown.startswith(HELP)
    assert "(unknown command /what; /help lists them)\n" in shown
    assert "/exit, /quit    leave" in shown
    assert asked(backend.requests[1]) == [("user", "two")]
    assert asked(backend.requests[2]) == [("system", "be kind"), ("user", "three")]
    assert len(backend.requests) == 3
    assert conversation.system == "be kind"


def test_several_lines() -> None:
    assert read_text(typed("a\\", "b\\", "c")) == "a\nb\nc"
    assert read_text(typed('"""a', "b", 'c"""')) == "a\nb\nc"
    assert read_text(typed('"""', "def f():", "    pass", '"""')) == "\ndef f():\n    pass\n"
    assert read_text(typed('"""one"""')) == "one"


def test_ctrl_c_stops_the_answer_and_keeps_what_came() -> None:
    async def interrupt(request: GenerateRequest, step: int) -> None:
        if step == 2 and len(backend.requests) == 1:
            raise KeyboardInterrupt

    backend = FakeBackend(before_step=interrupt)
    conversation, shown = talk(backend, "one", "two")
    assert shown.startswith("Hello,\n(stopped)\n")
    assert [turn.content for turn in conversation.turns] == ["one", "Hello,", "two", TEXT]
    assert backend.num_running == 0


def test_ctrl_c_at_the_prompt_goes_on() -> None:
    backend = FakeBackend()
    _, shown = talk(backend, KeyboardInterrupt, "one")
    assert shown.startswith("\n(Ctrl-D or /exit leaves)\n" + TEXT)


def test_a_refused_question_is_forgotten() -> None:
    async def refuse(request: GenerateRequest) -> None:
        if len(backend.requests) == 1:
            raise CapacityError("The queue is full.")

    backend = FakeBackend(admission=refuse)
    conversation, shown = talk(backend, "one", "x" * 2000, "two")
    assert "(The queue is full.)\n" in shown
    assert "(This model's maximum context length is 1000 tokens." in shown
    assert [turn.content for turn in conversation.turns] == ["two", TEXT]


def test_save(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    _, shown = talk(FakeBackend(), "one", f"/save {file}", "/save", "/save /no/such/x", system="s")
    assert json.loads(file.read_text(encoding="utf-8")) == {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": TEXT},
        ]
    }
    assert f"(3 messages written to {file})\n" in shown
    assert "(give a file: /save FILE)\n" in shown
    assert "(/no/such/x was not written: No such file or directory)\n" in shown


@pytest.mark.parametrize("word", ["/exit", "/quit", "/bye"])
def test_leaving(word: str) -> None:
    backend = FakeBackend()
    talk(backend, word, "never")
    assert backend.requests == []
