"""The texts that `headrace embed` reads: arguments, a file, or stdin; plain lines or JSON.

In: what was typed. Out: texts with their ids, one after the other: a file is never in memory whole.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, TextIO

from headrace.cli.prompt import check_text, not_utf8
from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen

InputFormat = Literal["lines", "jsonl"]


@frozen
class InputLine:
    """A text, where it comes from for errors, and its `id` where a JSON object has one."""

    text: str
    place: str
    id: Any = None


def read_inputs(
    texts: Sequence[str] | None,
    file: Path | None,
    stdin: TextIO | None,
    input_format: InputFormat,
    field: str,
) -> Iterator[InputLine]:
    """Every text, in order.

    Raises: ConfigError where there is nothing to read, or an empty text; of a file and of stdin
    while reading, for a line that is wrong or empty, and where there is none.
    """
    if texts:
        for number, text in enumerate(texts, 1):
            check_text(f"TEXT {number}", text)
        return iter([_filled(InputLine(text, f"TEXT {n}")) for n, text in enumerate(texts, 1)])
    if file is not None:
        try:
            source: IO[bytes] = file.open("rb")
        except OSError as error:
            reason = f"{error.strerror}."
            raise ConfigError("--file", str(file), "a file that can be read", reason) from None
        return _read_lines(source, str(file), input_format, field)
    if stdin is None or stdin.isatty():
        hint = 'Try: headrace embed "A sentence." or headrace embed < FILE.'
        raise ConfigError("TEXT", None, "texts, --file, or text on stdin", hint)
    raw = getattr(stdin, "buffer", None) or io.BytesIO(stdin.read().encode())
    return _read_lines(raw, "stdin", input_format, field)


def _read_lines(
    source: IO[bytes], name: str, input_format: InputFormat, field: str
) -> Iterator[InputLine]:
    has_text = False
    with source:
        for number, raw in enumerate(source, 1):
            place = f"{name}, line {number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                line = line.removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError as error:
                raise not_utf8(error, f"{place}, byte {error.start + 1}", source=name) from None
            if input_format == "lines":
                yield _filled(InputLine(line, place))
            elif line.strip():
                yield _filled(_from_json(line, place, field))
            else:
                continue
            has_text = True
    if not has_text:
        raise ConfigError(name, "", "a text on each line, at least one", "There is none in it.")


def _filled(line: InputLine) -> InputLine:
    """The line, if it has a text, as the server wants it. Raises: ConfigError."""
    if not line.text:
        hint = "Leave it out; vectors come in the order of the texts that are left."
        raise ConfigError(line.place, line.text, "a text that is not empty", hint)
    return line


def _from_json(line: str, place: str, field: str) -> InputLine:
    allowed = f"a JSON string, or an object with the text in {field!r}"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise ConfigError(place, line[:80], allowed) from None
    if isinstance(value, str):
        return InputLine(value, place)
    if isinstance(value, dict) and isinstance(value.get(field), str):
        return InputLine(value[field], place, value.get("id"))
    raise ConfigError(place, line[:80], allowed, "--field names another field.")
