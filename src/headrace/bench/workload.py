"""The requests of a load: prompts, answer lengths and arrivals, all decided before the first runs.

In: lengths, a seed, a source of prompts or a JSONL file. Out: Asks, and the times they are due. The
same seed gives the same load; arrivals, lengths and prompts have a generator each, so that changing
one leaves the others.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from headrace.bench.lengths import Lengths
from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen
from headrace.core.message import Message

Prompt = str | tuple[int, ...] | tuple[Message, ...]
_LINE = (
    'lines such as {"prompt": "a text"} or {"messages": [{"role": "user", "content": "a text"}]}, '
    'with "max_tokens": N if the answer\'s length shall differ'
)


@frozen
class Ask:
    """One request to make: text, token ids or messages, and the longest answer in tokens."""

    index: int
    prompt: Prompt
    max_tokens: int


class PromptMaker(Protocol):
    """Makes prompts of a length in tokens, never the same one twice."""

    def make(self, num_tokens: int) -> Prompt: ...


@frozen
class FilePrompt:
    """A line of a prompts file. `max_tokens` is None where it names none."""

    prompt: Prompt
    max_tokens: int | None


def generator(seed: int, purpose: str) -> random.Random:
    """A generator of its own for each purpose."""
    return random.Random(f"{seed}:{purpose}")  # noqa: S311 - no secret depends on it


def made_asks(
    maker: PromptMaker, count: int, prompts: Lengths, answers: Lengths, seed: int
) -> Iterator[Ask]:
    """Requests with drawn lengths."""
    source = generator(seed, "lengths")
    for index in range(count):
        num_tokens, max_tokens = prompts.draw(source), answers.draw(source)
        yield Ask(index, maker.make(num_tokens), max_tokens)


def file_asks(
    lines: Sequence[FilePrompt], count: int, answers: Lengths, seed: int
) -> Iterator[Ask]:
    """Requests from a file, in its order and again from its beginning when it is too short."""
    source = generator(seed, "lengths")
    for index in range(count):
        line = lines[index % len(lines)]
        drawn = answers.draw(source)
        yield Ask(index, line.prompt, drawn if line.max_tokens is None else line.max_tokens)


def poisson_arrivals(count: int, rate_per_s: float, seed: int) -> list[float]:
    """When each request is due: independent, exponentially distributed gaps. Units: seconds.

    The first is due at 0, so that a run does not begin with a pause.
    """
    source = generator(seed, "arrivals")
    arrivals = [0.0] * min(count, 1)
    while len(arrivals) < count:
        arrivals.append(arrivals[-1] + source.expovariate(rate_per_s))
    return arrivals


def read_prompts(path: Path) -> list[FilePrompt]:
    """Read a JSONL file of prompts; empty lines are skipped.

    Raises: ConfigError naming the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError("--prompts", str(path), "a readable JSONL file", f"{reason}.") from None
    except UnicodeDecodeError as error:
        hint = f"Byte {error.start} is not UTF-8."
        raise ConfigError("--prompts", str(path), "a JSONL file in UTF-8", hint) from None
    lines = [
        _read_line(line, f"{path}:{number}")
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    if not lines:
        raise ConfigError("--prompts", str(path), _LINE, "The file has no line.")
    return lines


def _read_line(line: str, where: str) -> FilePrompt:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"--prompts {where}", _cut(line), _LINE, f"{error}.") from None
    except RecursionError:
        raise ConfigError(f"--prompts {where}", _cut(line), _LINE, "It nests too deep.") from None
    if not isinstance(found, dict):
        raise ConfigError(f"--prompts {where}", _cut(line), _LINE)
    strange = set(found) - {"prompt", "messages", "max_tokens"}
    if strange or ("prompt" in found) == ("messages" in found):
        hint = f"Unknown: {', '.join(sorted(strange))}." if strange else "Give exactly one of both."
        raise ConfigError(f"--prompts {where}", _cut(line), _LINE, hint)
    max_tokens = found.get("max_tokens")
    if max_tokens is not None and (type(max_tokens) is not int or max_tokens < 1):
        raise ConfigError(f"--prompts {where} max_tokens", max_tokens, "a whole number, 1 or more")
    return FilePrompt(_read_prompt(found, line, where), max_tokens)


def _read_prompt(found: dict[str, Any], line: str, where: str) -> Prompt:
    if "prompt" in found:
        if not isinstance(found["prompt"], str) or not found["prompt"]:
            raise ConfigError(f"--prompts {where}", _cut(line), _LINE, "prompt is a text.")
        return str(found["prompt"])
    messages = found["messages"]
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        hint = "messages is a list of objects with role and content, both texts."
        raise ConfigError(f"--prompts {where}", _cut(line), _LINE, hint)
    return tuple(Message(message["role"], message["content"]) for message in messages)


def _is_message(value: object) -> bool:
    if not isinstance(value, dict) or set(value) != {"role", "content"}:
        return False
    return all(isinstance(text, str) for text in value.values())


def _cut(line: str) -> str:
    return line if len(line) <= 80 else line[:77] + "..."
