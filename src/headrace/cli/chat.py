"""`headrace chat`: a conversation in the terminal.

In: lines and commands. Out: answers as they come. Ctrl-C stops an answer, Ctrl-D leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from headrace.cli.answer import Answer, make_request, print_text, read_answer, summarize
from headrace.cli.generation import (
    DEFAULT_MAX_TOKENS,
    CanaryOption,
    DraftAcceptanceOption,
    DraftModelOption,
    IsaOption,
    KVCacheDtypeOption,
    LoraOption,
    MaxTokensOption,
    MemoryOption,
    ModelOption,
    NoPullOption,
    QuantizationOption,
    SeedOption,
    SpeculativeOption,
    SystemOption,
    TemperatureOption,
    ThreadsOption,
    TopKOption,
    TopPOption,
    check_max_tokens,
    find_model,
)
from headrace.cli.interrupts import Interruptible
from headrace.cli.prompt import check_text, not_utf8
from headrace.cli.settings import ConfigOption, load_config
from headrace.core.backend import Backend
from headrace.core.config import DEFAULT_MODEL
from headrace.core.errors import CapacityError, ConfigError, RequestError
from headrace.core.message import Message
from headrace.core.request import SamplingParams
from headrace.hub.catalogue import load_catalogue
from headrace.launch.backends import open_engine
from headrace.weights.adapter_files import check_adapters

HELP = '''\
/help           this list
/reset          forget the conversation, keep the system message
/system TEXT    set the system message and begin anew; without TEXT, remove it
/save FILE      write the conversation as JSON
/exit, /quit    leave (Ctrl-D does the same)
Several lines: end a line with \\, or put them between """ and """.
Ctrl-C stops an answer; what has come of it stays in the conversation.
'''
_BLOCK = '"""'
_PROMPT, _MORE = "> ", "… "
_MAX_HISTORY_LINES = 1000

ReadLine = Callable[[str], str]
Write = Callable[[str], None]


@dataclass(slots=True)
class Conversation:
    """Turns so far, and how the next is asked."""

    backend: Backend
    sampling: SamplingParams
    default_max_tokens: int
    system: str | None = None
    turns: list[Message] = field(default_factory=list)

    @property
    def messages(self) -> list[Message]:
        system = [] if self.system is None else [Message("system", self.system)]
        return [*system, *self.turns]

    async def ask(self, text: str, answer: Answer, show: Write) -> None:
        """Put a question and show the answer.

        Mutates: answer; the conversation, which keeps what has come when this is interrupted, and
        nothing of a question that was refused.
        """
        self.turns.append(Message("user", text))
        request = make_request(
            self.backend,
            self.sampling,
            messages=self.messages,
            default_max_tokens=self.default_max_tokens,
        )
        try:
            await read_answer(self.backend, request, answer, show)
        finally:
            if answer.text:
                self.turns.append(Message("assistant", answer.text))
            else:
                self.turns.pop()


def chat(
    model: ModelOption = DEFAULT_MODEL,
    system: SystemOption = None,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = 0.7,
    top_p: TopPOption = 0.95,
    top_k: TopKOption = 0,
    seed: SeedOption = None,
    memory: MemoryOption = None,
    threads: ThreadsOption = None,
    isa: IsaOption = None,
    kv_cache_dtype: KVCacheDtypeOption = None,
    quantization: QuantizationOption = None,
    canary: CanaryOption = None,
    speculative: SpeculativeOption = None,
    draft_model: DraftModelOption = None,
    draft_acceptance: DraftAcceptanceOption = None,
    lora: LoraOption = None,
    no_pull: NoPullOption = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tokens and speed after each answer.")
    ] = False,
    config_file: ConfigOption = None,
) -> None:
    """Talk with a model.

    Type /help for the commands. Ctrl-C stops an answer, Ctrl-D leaves.
    """
    check_max_tokens(max_tokens)
    sampling = SamplingParams(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed
    )
    check_text("--system", system or "")
    flags = {
        "engine.memory_bytes": memory,
        "engine.num_threads": threads,
        "engine.isa": isa,
        "engine.kv_cache_dtype": kv_cache_dtype,
        "engine.quantization": quantization,
        "engine.canary": canary,
        "engine.speculative": speculative,
        "engine.draft_model": draft_model,
        "engine.draft_acceptance": draft_acceptance,
        "engine.adapters": tuple(lora) if lora else None,
    }
    config = load_config(config_file, flags)
    entry = load_catalogue().find(model)
    if entry is not None and entry.is_base:
        # Known before anything is downloaded.
        raise _cannot_chat(model)
    check_adapters(config.engine)
    find_model(config, model, may_pull=not no_pull)
    engine = open_engine(model, config, is_brief=True)
    if engine.chat_template is None:
        raise _cannot_chat(model)
    conversation = Conversation(engine, sampling, DEFAULT_MAX_TOKENS, system)
    with asyncio.Runner() as runner, _line_history(config.hub.home / "chat_history"):
        runner.run(engine.start())
        try:
            if sys.stdin.isatty():
                typer.echo(
                    f"{engine.model_info.name}. /help for commands, Ctrl-D leaves.", err=True
                )
            with Interruptible():
                converse(conversation, runner, input, print_text, is_verbose=verbose)
        finally:
            runner.run(engine.stop())


def _cannot_chat(model: str) -> ConfigError:
    return ConfigError(
        "--model", model, "a model with a chat template", "Use headrace run --raw with it."
    )


def converse(
    conversation: Conversation,
    runner: asyncio.Runner,
    read_line: ReadLine,
    write: Write,
    *,
    is_verbose: bool = False,
) -> None:
    """Read and answer until the end of input or /exit."""
    while True:
        try:
            text = read_text(read_line).strip()
        except EOFError:
            write("\n")
            return
        except KeyboardInterrupt:
            write("\n(Ctrl-D or /exit leaves)\n")
            continue
        except UnicodeDecodeError as error:
            raise not_utf8(error, "One byte") from None
        if text.startswith("/"):
            if not run_command(conversation, text, write):
                return
        elif text:
            _answer(conversation, runner, text, write, is_verbose=is_verbose)


def read_text(read_line: ReadLine) -> str:
    """One line, or several joined by a trailing backslash or inside triple quotes.

    Raises: EOFError, KeyboardInterrupt.
    """
    line = read_line(_PROMPT)
    if line.lstrip().startswith(_BLOCK):
        return _read_block(line.lstrip().removeprefix(_BLOCK), read_line)
    lines = []
    while line.endswith("\\"):
        lines.append(line[:-1])
        line = read_line(_MORE)
    return "\n".join([*lines, line])


def _read_block(first: str, read_line: ReadLine) -> str:
    lines, line = [], first
    while not line.rstrip().endswith(_BLOCK):
        lines.append(line)
        line = read_line(_MORE)
    return "\n".join([*lines, line.rstrip().removesuffix(_BLOCK)])


def run_command(conversation: Conversation, text: str, write: Write) -> bool:
    """Run a /command; False when it is time to leave."""
    name, _, rest = text.partition(" ")
    rest = rest.strip()
    if name in ("/exit", "/quit", "/bye"):
        return False
    if name == "/help":
        write(HELP)
    elif name == "/reset":
        conversation.turns.clear()
        write("(the conversation is empty)\n")
    elif name == "/system":
        conversation.system = rest or None
        conversation.turns.clear()
        write("(the system message is set)\n" if rest else "(there is no system message)\n")
    elif name == "/save":
        write(f"({save(conversation, rest)})\n")
    else:
        write(f"(unknown command {name}; /help lists them)\n")
    return True


def save(conversation: Conversation, name: str) -> str:
    """Write the conversation to a file; says how it went."""
    if not name:
        return "give a file: /save FILE"
    turns = [_as_json(message) for message in conversation.messages]
    try:
        Path(name).expanduser().write_text(
            json.dumps({"messages": turns}, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
        )
    except OSError as error:
        return f"{name} was not written: {error.strerror or error}"
    return f"{len(turns)} messages written to {name}"


def _as_json(message: Message) -> dict[str, Any]:
    return {name: value for name, value in asdict(message).items() if value}


def _answer(
    conversation: Conversation,
    runner: asyncio.Runner,
    text: str,
    write: Write,
    *,
    is_verbose: bool,
) -> None:
    answer = Answer()
    try:
        runner.run(conversation.ask(text, answer, write))
    except KeyboardInterrupt:
        write("\n(stopped)\n")
        return
    except (RequestError, CapacityError) as error:
        write(f"({error.message})\n")
        return
    write("\n" if answer.text.endswith("\n") else "\n\n")
    if is_verbose:
        typer.echo(summarize(answer), err=True)


@contextlib.contextmanager
def _line_history(path: Path) -> Iterator[None]:
    """Arrow keys and a history kept between chats, where the platform has readline."""
    readline = _find_readline()
    if readline is None or not sys.stdin.isatty():
        yield
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(_MAX_HISTORY_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)
            path.chmod(0o600)


def _find_readline() -> ModuleType | None:
    try:
        return importlib.import_module("readline")
    except ImportError:
        return None
