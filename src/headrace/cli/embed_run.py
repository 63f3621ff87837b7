"""Makes the vectors of `headrace embed` and writes them, a few hundred texts at a time."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import typer

from headrace.cli.embed_lines import InputLine
from headrace.core.errors import ContextTooLong, InvalidParameter, RequestError
from headrace.core.frozen import frozen
from headrace.embedder import Embedder, Vectors

TEXTS_AT_ONCE = 256
_NOTE_EVERY_S = 0.5
# What is wrong with an argument is wrong with the flag that gave it.
_FLAGS = {
    "prompt_name": "--prompt-name",
    "pooling": "--pooling",
    "dimensions": "--dimensions",
    "truncate_prompt_tokens": "--truncate",
}


@frozen
class EmbedOptions:
    """`arguments` are those of Embedder.embed."""

    format: Literal["jsonl", "json", "npy"]
    quiet: bool
    arguments: Mapping[str, Any]


def embed_all(
    embedder: Embedder, inputs: Iterator[InputLine], output: Path | None, options: EmbedOptions
) -> None:
    """Read, embed and write everything, in order. Raises: RequestError that names the text."""
    begin_s = time.monotonic()
    count = _Counter(begin_s, is_shown=not options.quiet)
    with ExitStack() as stack:
        binary = options.format == "npy"
        out: IO[Any] = sys.stdout.buffer if binary else sys.stdout
        if output is not None:
            out = stack.enter_context(_whole_file(output, is_binary=binary))
        writer = _WRITERS[options.format](out)
        while lines := list(itertools.islice(inputs, TEXTS_AT_ONCE)):
            writer.write(lines, _embed(embedder, lines, options.arguments))
            count.add(len(lines))
        writer.end(embedder.vector_size)
        out.flush()
    count.end()


@contextmanager
def _whole_file(path: Path, *, is_binary: bool) -> Iterator[IO[Any]]:
    """A file that is there when all of it is; until then, and after an error, the one before is.

    A device or a pipe is written as it goes, and so is a file in a folder that takes no other.
    """
    mode, encoding = ("wb", None) if is_binary else ("w", "utf-8")
    # Where a link leads; beside it, so that it is one file system.
    target = path.resolve()
    if (path.exists() and not path.is_file()) or not os.access(target.parent, os.W_OK):
        with path.open(mode, encoding=encoding) as out:
            yield out
        return
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open(mode, encoding=encoding) as out:
            yield out
        if target.exists():
            partial.chmod(target.stat().st_mode & 0o7777)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _embed(embedder: Embedder, lines: Sequence[InputLine], arguments: Mapping[str, Any]) -> Vectors:
    try:
        return embedder.embed([line.text for line in lines], **arguments)
    except RequestError as error:
        param = error.param or ""
        if isinstance(error, InvalidParameter) and param in _FLAGS:
            raise InvalidParameter(_FLAGS[param], error.value, error.allowed, error.hint) from None
        if not param.startswith("inputs["):
            raise
        line = lines[int(param.removeprefix("inputs[").removesuffix("]"))]
        hint = " --truncate -1 keeps what fits." if isinstance(error, ContextTooLong) else ""
        text = error.message.replace(" truncate_prompt_tokens = -1 keeps as many as fit.", hint)
        raise RequestError(f"{line.place}: {text}", line.place, error.code) from None


class _JsonLines:
    """An object on each line: index, id where there is one, embedding."""

    def __init__(self, out: IO[str]) -> None:
        self._out, self._index = out, 0

    def write(self, lines: Sequence[InputLine], vectors: Vectors) -> None:
        for row in self.rows(lines, vectors):
            self._out.write(json.dumps(row, ensure_ascii=False) + "\n")

    def rows(self, lines: Sequence[InputLine], vectors: Vectors) -> Iterator[dict[str, Any]]:
        for line, vector in zip(lines, vectors, strict=True):
            row: dict[str, Any] = {"index": self._index}
            if line.id is not None:
                row["id"] = line.id
            self._index += 1
            yield row | {"embedding": [float(str(number)) for number in vector]}

    def end(self, vector_size: int) -> None:
        """Nothing follows the last line."""


class _OneJson(_JsonLines):
    """A list of such objects."""

    def __init__(self, out: IO[str]) -> None:
        super().__init__(out)
        self._kept: list[dict[str, Any]] = []

    def write(self, lines: Sequence[InputLine], vectors: Vectors) -> None:
        self._kept += self.rows(lines, vectors)

    def end(self, vector_size: int) -> None:
        self._out.write(json.dumps(self._kept, ensure_ascii=False) + "\n")


class _Npy:
    """One array of float32, [texts, numbers]."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._kept: list[Vectors] = []

    def write(self, lines: Sequence[InputLine], vectors: Vectors) -> None:
        self._kept.append(vectors)

    def end(self, vector_size: int) -> None:
        empty = np.empty((0, vector_size), np.float32)
        np.save(self._out, np.concatenate(self._kept) if self._kept else empty)


_WRITERS: Mapping[str, Any] = {"jsonl": _JsonLines, "json": _OneJson, "npy": _Npy}


class _Counter:
    """Says on stderr how many texts are done: as it goes on a terminal, at the end elsewhere."""

    def __init__(self, begin_s: float, is_shown: bool) -> None:
        self._begin_s = self._said_s = begin_s
        self._is_shown, self._num_texts = is_shown, 0
        self._is_live = is_shown and sys.stderr.isatty()

    def add(self, num_texts: int) -> None:
        self._num_texts += num_texts
        if self._is_live and time.monotonic() - self._said_s > _NOTE_EVERY_S:
            self._said_s = time.monotonic()
            typer.echo(f"\r{self._words()}", err=True, nl=False)

    def end(self) -> None:
        if self._is_shown:
            typer.echo(("\r" if self._is_live else "") + self._words(), err=True)

    def _words(self) -> str:
        spent_s = max(time.monotonic() - self._begin_s, 1e-9)
        rate = self._num_texts / spent_s
        return f"{self._num_texts} texts in {spent_s:.1f} s ({rate:.0f} texts/s)"
