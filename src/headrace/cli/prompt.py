"""What `headrace run` asks: the prompt of the command line, and the text on stdin.

In: PROMPT and stdin. Out: one text. With PROMPT only a pipe, a socket or a regular file is read,
and a pipe that somebody holds open and says nothing on is an error: no script hangs, and no text
that comes late is left out.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable
from typing import TextIO

from headrace.core.errors import ConfigError

# A pipe that gave nothing for so long is one that this process only inherited, as over ssh.
SILENCE_S = 10.0
NOTE_AFTER_S = 1.0
_WAITS = "note: waiting for text on stdin; with < /dev/null there is none"

Note = Callable[[str], None]


def read_prompt(
    given: str | None, stdin: TextIO | None, note: Note, silence_s: float = SILENCE_S
) -> str:
    """The prompt of the command line, with a text that is piped in below it.

    For `-`, and without PROMPT, stdin is the whole prompt. `note` takes what a person who waits
    should know.
    Raises: ConfigError when there is no prompt, or stdin is silent or not UTF-8.
    """
    if given is None and (stdin is None or stdin.isatty()):
        raise ConfigError("PROMPT", None, "a text", 'Try: headrace run "Write a haiku."')
    if given in (None, "-"):
        text = "" if stdin is None else _read_text(stdin)
    else:
        text = str(given)
        check_text("PROMPT", text)
        piped = _read_piped(stdin, note, silence_s) if text.strip() else ""
        if piped.strip():
            text = f"{text}\n\n{piped}"
    if not text.strip():
        raise ConfigError("PROMPT", text, "a text that is not empty")
    return text


def check_text(name: str, text: str) -> None:
    """Raises: ConfigError for an argument whose bytes are no text."""
    try:
        os.fsencode(text).decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(error, source=name) from None


def not_utf8(error: UnicodeDecodeError, where: str = "", source: str = "stdin") -> ConfigError:
    """The error for bytes of `source` that are no text. `where` says which byte."""
    byte = error.object[error.start]
    place = where or f"Byte {error.start}, counted from 0,"
    return ConfigError(
        source,
        error.object[max(0, error.start - 8) : error.start + 8],
        "text in UTF-8",
        f"{place} is 0x{byte:02x}. Convert it first, as `iconv -f latin1 -t utf-8` does.",
    )


def _read_piped(stdin: TextIO | None, note: Note, silence_s: float) -> str:
    """The text beside a PROMPT; empty when nobody meant to send one."""
    descriptor = _descriptor(stdin)
    if stdin is None or descriptor is None:
        return ""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        _await_speech(descriptor, note, silence_s)
    elif not stat.S_ISREG(mode):
        return ""
    return _read_text(stdin)


def _descriptor(stdin: TextIO | None) -> int | None:
    """The open file behind stdin; None when there is none."""
    try:
        descriptor = -1 if stdin is None or stdin.closed else stdin.fileno()
        os.fstat(descriptor)
    except OSError as error:
        # io.UnsupportedOperation, of streams without a file, is an OSError without a number.
        if error.errno in (None, errno.EBADF):
            return None
        raise
    return descriptor


def _await_speech(descriptor: int, note: Note, silence_s: float) -> None:
    """Wait for the first bytes, or the end, of a pipe. Raises: ConfigError if neither comes."""
    # poll and not select, which refuses descriptors above 1023.
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLHUP)
    first_s = min(NOTE_AFTER_S, silence_s)
    if poll.poll(first_s * 1000):
        return
    note(_WAITS)
    if poll.poll((silence_s - first_s) * 1000):
        return
    raise ConfigError(
        "stdin",
        f"an open pipe that gave nothing for {silence_s:g} s",
        "text, or nothing at all",
        "Add < /dev/null when there is none. For text that comes late, send the whole prompt "
        "on stdin and leave PROMPT out.",
    )


def _read_text(stdin: TextIO) -> str:
    buffer = getattr(stdin, "buffer", None)
    if buffer is None:
        return stdin.read()
    try:
        text: str = buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(error) from None
    return text.replace("\r\n", "\n")
