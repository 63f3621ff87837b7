"""What is told of a call that has ended, and to whom: metrics by tenant, traces.

In: the usage row of a call and what became of its prompts. Out: a CallEnd for each watcher.
A watcher that fails costs nobody an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

from headrace.core.frozen import frozen
from headrace.core.output import RequestTimes
from headrace.core.request import GenerateRequest
from headrace.core.tracing import TraceContext
from headrace.core.usage import Usage
from headrace.economics.usage_row import UsageRow

_log = logging.getLogger(__name__)


@frozen
class AttemptEnd:
    """A prompt of a call. `usage`, `times` and `end_s` (of Unix) are None where it did not end.

    The request holds the prompt: it is not to be shown.
    """

    request: GenerateRequest
    usage: Usage | None
    times: RequestTimes | None
    end_s: float | None


@frozen
class CallEnd:
    """A call as it ended. Units: seconds of Unix."""

    row: UsageRow
    attempts: tuple[AttemptEnd, ...] = ()
    begin_s: float = 0.0
    trace: TraceContext | None = None
    is_stream: bool | None = None


class CallWatcher(Protocol):
    """Is told of calls, in the event loop: it must not wait."""

    def ended(self, call: CallEnd) -> None:
        """Take in a call."""
        ...


def tell(watchers: Iterable[CallWatcher], call: CallEnd) -> None:
    """Tell all of them."""
    for watcher in watchers:
        try:
            watcher.ended(call)
        except Exception:
            _log.exception("A watcher of calls failed.")
