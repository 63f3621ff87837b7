"""The `headrace` command: where the process enters, and how Ctrl-C leaves while it still loads.

In: arguments. Out: an exit code. Imports next to nothing itself: everything else is loaded inside
`main`, where an interrupt ends the process at once instead of in the middle of some import.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # takes longer to load than all the rest
    from collections.abc import Callable, Sequence
    from typing import Any

EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit the process with its code.

    `arguments` are those after the program's name; None takes them from `sys.argv`.
    """
    # numpy's BLAS starts a thread per core that spins and is never asked: the kernels are our own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is not None:
        sys.exit(_load_quietly(given)())
    gc.disable()
    command = _load_quietly(given)
    gc.freeze()  # what was imported stays: nobody looks through it for garbage, now or later
    gc.enable()
    code = command()
    _end_process(code)
    sys.exit(code)


def _end_process(code: int) -> None:
    """End without taking the interpreter apart, which after a model takes another 0.2 s.

    Commands have closed what they opened; what is left is text that nobody has written out.
    Returns when that fails, so that the ordinary end says why.
    """
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        return
    os._exit(code)


def _load_quietly(given: Sequence[str]) -> Callable[[], int]:
    """Import what the arguments name; until that is done Ctrl-C ends the process silently.

    An exception would not do: libraries catch it half-way through their import and report it as
    an error of their own. Nothing is open yet that wants closing.
    """
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        if is_ours:
            signal.signal(signal.SIGINT, _leave)
        return _load(given)
    except KeyboardInterrupt:
        os._exit(EXIT_INTERRUPTED)
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _load(given: Sequence[str]) -> Callable[[], int]:
    run_guarded = importlib.import_module("headrace.cli.errors").run_guarded
    build_app = importlib.import_module("headrace.cli.app").build_app

    def run() -> int:
        code: int = run_guarded(
            lambda: app(given, prog_name="headrace", standalone_mode=True), given
        )
        return code

    app = build_app(given)
    return run


def _leave(_signal: int, _frame: Any) -> None:
    os._exit(EXIT_INTERRUPTED)
