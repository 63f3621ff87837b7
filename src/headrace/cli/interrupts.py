"""What Ctrl-C does: it ends the process at once, or raises where something wants closing.

An exception in the middle of an import would not end it: libraries catch it half-way and report an
error of their own, and a C++ extension that meets one aborts. So whatever loads is left at once.
Imports what every Python has loaded: the module `signal` takes longer than all else of a start.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]
import os

EXIT_INTERRUPTED = 130


def leave(_signal: int, _frame: object) -> None:
    """The handler of a process that has nothing open: end it silently."""
    os._exit(EXIT_INTERRUPTED)


def leave_on_interrupt() -> bool:
    """From here on Ctrl-C ends the process. False where it has another meaning: nothing changes."""
    try:
        is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if is_ours:
            signal.signal(signal.SIGINT, leave)
    except KeyboardInterrupt:
        leave(0, None)
    return is_ours


class Interruptible:
    """As long as it is entered, Ctrl-C is a KeyboardInterrupt; asyncio makes a cancellation of it.

    For the main thread. Where Ctrl-C does not end the process, nothing changes.
    """

    def __enter__(self) -> None:
        self._is_ours = signal.getsignal(signal.SIGINT) is leave
        if self._is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        if self._is_ours:
            signal.signal(signal.SIGINT, leave)
