"""What is told of a call that has ended, and to whom: metrics by tenant, traces.

In: the usage row of a call and the requests that were made for it. Out: a CallEnd for each watcher.
A watcher that fails costs nobody an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from headrace.core.request import GenerateRequest
from headrace.economics.usage_row import UsageRow

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CallEnd:
    """A call as it ended. Requests hold prompts: they are not to be shown."""

    row: UsageRow
    requests: tuple[GenerateRequest, ...]


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
