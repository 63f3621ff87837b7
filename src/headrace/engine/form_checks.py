"""FormChecks: asks the engine process whether answers can be held to a form.

In: forms, from threads that wait; answers of the process. Out: CheckForm messages. Only one process
so compiles forms, the one that follows them. What an engine ended on is asked of the next one once
more, and refused then.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock

from headrace.core.errors import BackendError, HeadraceError
from headrace.core.structured_outputs import StructuredOutputs
from headrace.engine.error_record import to_error
from headrace.engine.messages import CheckForm, FormChecked

MAX_ENGINES = 2


@dataclass(slots=True)
class _Check:
    message: CheckForm
    future: Future[None] = field(default_factory=Future)
    num_engines: int = 0


class FormChecks:
    """Checks that wait for an answer. Any thread may call."""

    def __init__(self, send: Callable[[CheckForm], None]) -> None:
        """`send` may drop the message when no engine runs: `start_again` repeats it."""
        self._send = send
        self._checks: dict[int, _Check] = {}
        self._serial = itertools.count()
        self._lock = Lock()
        self._end: HeadraceError | None = None

    def __len__(self) -> int:
        return len(self._checks)

    def check(self, form: StructuredOutputs) -> None:
        """Wait until the engine has compiled a form. Raises: InvalidGrammar, BackendError."""
        check = _Check(CheckForm(next(self._serial), form))
        with self._lock:
            if self._end is not None:
                raise self._end
            self._checks[check.message.check_id] = check
        self._send(check.message)
        check.future.result()

    def take(self, reply: FormChecked) -> None:
        """Tell who waits."""
        check = self._checks.pop(reply.check_id, None)
        if check is None or check.future.done():
            return
        if reply.error is None:
            check.future.set_result(None)
        else:
            check.future.set_exception(to_error(reply.error))

    def start_again(self) -> list[CheckForm]:
        """The engine has ended: what to ask the next one."""
        again = []
        for check in list(self._checks.values()):
            check.num_engines += 1
            if check.num_engines < MAX_ENGINES:
                again.append(check.message)
                continue
            del self._checks[check.message.check_id]
            error = BackendError("The engine ended while it compiled the form of the answer.")
            check.future.set_exception(error)
        return again

    def end(self, error: HeadraceError) -> None:
        """No engine will ever answer."""
        with self._lock:
            self._end = error
            checks = list(self._checks.values())
            self._checks.clear()
        for check in checks:
            check.future.set_exception(error)
