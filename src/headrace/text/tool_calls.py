"""ToolCallParser: finds tool calls in an answer as it grows.

In: pieces of text, cut anywhere. Out: what is text and what is a call, the same however the answer
was cut. A call begins when its name is read, that of a known tool; its arguments are then passed on
as the model writes them; a call that is not JSON is passed on when it is whole. What looks like a
call and is none comes back as text, complete. Knows nothing of tokens and schemas.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Collection

from headrace.core.frozen import frozen
from headrace.core.output import ToolCallDelta
from headrace.text.call_syntax import CallSyntax
from headrace.text.json_calls import read_json_call
from headrace.text.json_extent import JsonExtent
from headrace.text.loose_calls import Calls, read_gemma_calls, read_python_calls

# As much of a call as says whose it is; the name may be cut off.
_BEGUN = re.compile(r'\{\s*"name"\s*:\s*"([^"\\]*)("?)')
# A call's usual beginning, up to its arguments. Any other object is read when it is whole.
_HEAD = re.compile(r'\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
_NAMED_HEAD = re.compile(r"\s*([^\s\[\]{}]+)(?:\[CALL_ID\][^\s\[\]{}]*)?\[ARGS\]\s*(?=\{)")
_PYTHON_START = re.compile(r"\[\s*([^\W\d][\w.:/-]*)\s*\(")
_MAX_HEAD = 1024
_MAX_WHOLE = 65_536
"""Characters of calls that are read when they are whole."""
_SPACE = " \t\r\n"


@frozen
class Gained:
    """What a piece of an answer added."""

    text: str = ""
    calls: tuple[ToolCallDelta, ...] = ()


def new_call_id() -> str:
    """An id that no other call has."""
    return f"call_{uuid.uuid4().hex[:24]}"


class ToolCallParser:
    """The calls of one answer. `names` are the tools it may call, `max_calls` how many.

    Those of `exact_names` are called in the usual order of keys only. With `come_first` calls begin
    the answer, with their opening, or there are none; with `stand_alone` there is nothing else.
    """

    def __init__(
        self,
        syntax: CallSyntax,
        names: Collection[str],
        max_calls: int | None = None,
        exact_names: Collection[str] = (),
        come_first: bool = False,
        stand_alone: bool = False,
    ) -> None:
        self.num_calls = 0
        self.is_in_call = False
        self._syntax, self._names, self._max_calls = syntax, frozenset(names), max_calls
        longest_first = sorted(syntax.openings, key=len, reverse=True)
        self._openings = re.compile("|".join(map(re.escape, longest_first)))
        self._texts: list[str] = []
        self._calls: list[ToolCallDelta] = []
        # Text that is not decided on; before it, what was read of a call that may be none.
        self._held = ""
        self._raw = ""
        self._exact_names = frozenset(exact_names)
        self._state: Callable[[], bool] = self._at_opening if come_first else self._at_start
        self._stand_alone = stand_alone
        self._is_final = self._is_cut = False
        self._is_marked = False
        self._is_after_call = False
        self._is_bare = self._is_in_list = False
        self._closing = ""
        self._extent = JsonExtent()
        self._at = 0
        self._floor = 0

    @property
    def is_over(self) -> bool:
        """Whether the answer has all the calls it may have."""
        return (
            self._max_calls is not None
            and not self.is_in_call
            and (self.num_calls >= self._max_calls)
        )

    def append(self, text: str) -> Gained:
        """Take the next piece. Mutates: the text held back."""
        self._held += text
        return self._advance()

    def flush(self, is_cut: bool = False) -> Gained:
        """End the answer: what was held back is text, or the end of a call.

        `is_cut`: a stop text or the limit of tokens ended it. What was begun as a call is then no
        text: it was cut off before it could be one.
        """
        self._is_final, self._is_cut = True, is_cut
        return self._advance()

    def _advance(self) -> Gained:
        while not self.is_over and self._state():
            pass
        gained = Gained("".join(self._texts), tuple(self._calls))
        self._texts, self._calls = [], []
        return gained

    # Each state looks at `_held`; true when it decided something and another look is due.

    def _at_start(self) -> bool:
        """A JSON object at the very start may be a call without its marker."""
        body = self._held.lstrip(_SPACE)
        if not body and not self._is_final:
            return False
        if body.startswith("{"):
            self._is_bare = True
            self._raw = self._held[: -len(body)]
            self._enter_head(body)
        elif body.startswith("[") and self._syntax.notation == "python":
            return self._at_list(body)
        else:
            self._state = self._in_text
        return True

    def _at_list(self, body: str) -> bool:
        """A list of calls in Python's words may stand alone, without its marker."""
        found = _PYTHON_START.match(body[:_MAX_HEAD])
        if found is None and not self._is_final and _may_begin_list(body):
            return False
        is_call = found is not None and self._known(found.group(1)) is not None
        self._at, self._is_marked = 0, is_call
        self._state = self._in_whole if is_call else self._in_text
        return True

    def _at_opening(self) -> bool:
        """Calls begin here, or all of the answer is text."""
        body, opening = self._held.lstrip(_SPACE), self._syntax.opening
        if not self._is_final and len(body) < len(opening) and opening.startswith(body):
            return False
        self._state = self._in_text if body.startswith(opening) else self._in_text_alone
        return True

    def _in_text_alone(self) -> bool:
        self._emit_text(self._held)
        self._held = ""
        return False

    def _in_text(self) -> bool:
        found = self._openings.search(self._held)
        if found is not None:
            end = len(self._held[: found.start()].rstrip(_SPACE))
            self._emit_text(self._held[:end])
            self._closing = self._syntax.openings[found.group()]
            self._is_bare = self._is_in_list = False
            self._is_marked = found.group() not in self._syntax.fences
            self._raw = self._held[end : found.end()]
            self._held = self._held[found.end() :]
            self._state = self._after_opening
            return True
        if self._is_final:
            is_markup = self._is_cut and self._stand_alone
            if not is_markup and (not self._is_after_call or self._held.strip(_SPACE)):
                self._emit_text(self._held)
            self._held = ""
            return False
        safe = self._held[: len(self._held) - self._num_partial()].rstrip(_SPACE)
        self._emit_text(safe)
        self._held = self._held[len(safe) :]
        return False

    def _num_partial(self) -> int:
        """Characters at the end that may be the beginning of an opening."""
        longest = max(map(len, self._syntax.openings)) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            tail = self._held[-length:]
            if any(opening.startswith(tail) for opening in self._syntax.openings):
                return length
        return 0

    def _after_opening(self) -> bool:
        body = self._held.lstrip(_SPACE)
        if self._syntax.notation and self._closing == self._syntax.closing:
            return self._before_whole(body)
        if not self._syntax.arguments_marker or body[:1] in ("[", "{"):
            self._state = self._before_object
            return bool(body) or self._is_final
        found = _NAMED_HEAD.match(self._held[:_MAX_HEAD])
        if found is not None and found.group(1) in self._names:
            self._floor = 0
            self._begin_call(found.group(1), found.end())
        elif self._is_final or len(self._held) >= _MAX_HEAD or "{" in self._held[:_MAX_HEAD]:
            self._refuse()
        else:
            return False
        return True

    def _before_whole(self, body: str) -> bool:
        """After the opening of calls that need not be JSON; where Python is wanted they may be."""
        inner = body[1:].lstrip(_SPACE) if body.startswith("[") else body
        if not inner and not self._is_final:
            return False
        is_json = self._syntax.notation == "python" and inner.startswith("{")
        self._at = 0
        self._state = self._before_object if is_json else self._in_whole
        return True

    def _in_whole(self) -> bool:
        """Wait for the closing of calls, or the end of the answer, and read them at once."""
        since = max(0, self._at - len(self._closing))
        end = self._held.find(self._closing, since) if self._closing else -1
        self._at = len(self._held)
        if end < 0 and not self._is_final and len(self._held) <= _MAX_WHOLE:
            return False
        whole = self._held if end < 0 else self._held[:end]
        calls = None if len(whole) > _MAX_WHOLE else self._read_whole(whole)
        if calls is None:
            self._refuse()
            return True
        for name, arguments in calls:
            if not self.is_over:
                self._calls.append(ToolCallDelta(self.num_calls, new_call_id(), name))
                self.num_calls += 1
                self._emit_arguments(arguments)
        self._raw, self._is_after_call = "", True
        self._held = "" if end < 0 else self._held[end + len(self._closing) :]
        self._state = self._in_text
        return True

    def _read_whole(self, text: str) -> Calls | None:
        """The calls of a text, all of known tools; None where it is anything else."""
        is_gemma = self._syntax.notation == "gemma"
        found = read_gemma_calls(text, self._syntax.quote) if is_gemma else read_python_calls(text)
        calls = Calls()
        for written, arguments in found or ():
            name = self._known(written)
            # Arguments of these are held to their schemas, and so they are JSON.
            if name is None or (name in self._exact_names and not is_gemma):
                return None
            calls.append((name, arguments))
        return calls or None

    def _known(self, written: str) -> str | None:
        """The tool of a name, also of one in a module, as `default_api.add`."""
        last = written.rpartition(".")[2]
        return next((name for name in (written, last) if name in self._names), None)

    def _before_object(self) -> bool:
        """Skip what stands before an object."""
        body = self._held.lstrip(_SPACE)
        if not body and not self._is_final:
            return False
        skipped = len(self._held) - len(body)
        if body.startswith("[") and not self._is_in_list:
            self._is_in_list = True
            skipped += 1
        elif not body.startswith("{"):
            self._refuse()
            return True
        self._raw += self._held[:skipped]
        self._held = self._held[skipped:]
        if self._held.startswith("{"):
            self._enter_head(self._held)
        return True

    def _enter_head(self, held: str) -> None:
        self._held, self._at, self._extent = held, 0, JsonExtent()
        self._state = self._in_head

    def _in_head(self) -> bool:
        found = _HEAD.match(self._held[:_MAX_HEAD])
        if found is not None and found.group(1) in self._names:
            self._extent = JsonExtent()
            self._extent.advance(self._held[: found.end()], 0, 0)
            self._floor = 1
            self._begin_call(found.group(1), found.end())
            return True
        end = self._extent.advance(self._held, self._at, 0)
        self._at = len(self._held)
        if end is None and not self._is_final:
            return False
        call = None
        if end is not None and not self._extent.is_broken:
            call = read_json_call(self._held[:end], self._names, needs_arguments=self._is_bare)
        if end is None or call is None or call[0] in self._exact_names:
            self._refuse()
            return True
        self._begin_call(call[0], end)
        self._emit_arguments(call[1])
        self._end_call()
        return True

    def _begin_call(self, name: str, end: int) -> None:
        """A call it is: its arguments begin at `end`."""
        self._calls.append(ToolCallDelta(self.num_calls, new_call_id(), name))
        self.num_calls += 1
        self.is_in_call = True
        if self._floor == 0:
            self._extent = JsonExtent()
        self._raw, self._held = "", self._held[end:]
        self._state = self._in_arguments

    def _in_arguments(self) -> bool:
        end = self._extent.advance(self._held, 0, self._floor)
        at = len(self._held) if end is None else end
        self._emit_arguments(self._held[:at])
        self._held = self._held[at:]
        if end is None:
            return False
        if self._floor and not self._extent.is_broken:
            self._state = self._in_object_tail
        else:
            self._end_call()
        return True

    def _in_object_tail(self) -> bool:
        """Between the arguments and the end of their object: a brace, or keys such as an id."""
        body = self._held.lstrip(_SPACE)
        following = body[1:].lstrip(_SPACE) if body.startswith(",") else body
        if not following:
            return self._end_if_final()
        if body[0] == "," and following[0] == '"':
            self._held, self._state = following, self._in_extra_keys
            return True
        if body[0] == "}":
            self._held = body[1:]
        self._end_call()
        return True

    def _in_extra_keys(self) -> bool:
        end = self._extent.advance(self._held, 0, 0)
        self._held = "" if end is None else self._held[end:]
        if end is None:
            return self._end_if_final()
        self._end_call()
        return True

    def _end_if_final(self) -> bool:
        if self._is_final:
            self._end_call()
        return self._is_final

    def _end_call(self) -> None:
        self.is_in_call = False
        self._is_after_call = True
        self._state = self._after_object

    def _after_object(self) -> bool:
        """What follows a call: its closing, another call, or text. Surplus braces are dropped."""
        body = self._held.lstrip(f"{_SPACE}}}")
        if not body or (self._closing.startswith(body) and body != self._closing):
            if not self._is_final:
                return False
            self._held, self._state = "", self._in_text
            return True
        if self._closing and body.startswith(self._closing):
            self._held, self._state = body[len(self._closing) :], self._in_text
        elif self._is_in_list and body[0] in ",]":
            self._is_in_list = body[0] == ","
            self._held = body[1:]
            if self._is_in_list:
                self._raw, self._state = body[0], self._before_object
        elif not self._closing and not self._is_in_list and body[0] in ";{":
            num_skipped = int(body[0] == ";")
            self._raw, self._held = body[:num_skipped], body[num_skipped:]
            self._state = self._before_object
        else:
            space = self._held[: -len(body)].replace("}", "")
            self._held, self._state = space + body, self._in_text
        return True

    def _refuse(self) -> None:
        """It is no call: what was read of it is text, and what is held is looked at as text."""
        if self._is_cut and self._has_begun():
            self._raw = self._held = ""
        self._emit_text(self._raw)
        self._raw, self._state = "", self._in_text
        self._is_in_list = False

    def _has_begun(self) -> bool:
        """Whether what is held is a call's beginning, and can be nothing else."""
        if self._is_marked or self._stand_alone:
            return True
        # An object is likely to be a call of these tools where no other form begins one.
        found = None if self._is_bare and self._syntax.opening else _BEGUN.match(self._held)
        if found is None:
            return False
        name, is_whole = found.group(1), bool(found.group(2))
        return name in self._names if is_whole else any(n.startswith(name) for n in self._names)

    def _emit_text(self, text: str) -> None:
        if text:
            self._texts.append(text)
            self._is_after_call = self._is_after_call and not text.strip(_SPACE)

    def _emit_arguments(self, text: str) -> None:
        if text:
            self._calls.append(ToolCallDelta(self.num_calls - 1, arguments=text))


def _may_begin_list(body: str) -> bool:
    """Whether a text may be cut off before the parenthesis of a list's first call."""
    return (
        len(body) < _MAX_HEAD and re.fullmatch(r"\[\s*(?:[^\W\d][\w.:/-]*)?\s*", body) is not None
    )
