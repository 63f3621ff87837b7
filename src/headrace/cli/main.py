"""The `headrace` command: where the process enters and ends.

In: arguments. Out: an exit code. Imports next to nothing itself: everything else is loaded inside
`main`, where Ctrl-C ends the process at once. Commands that do not load a model in their own
process raise it from their first line on, the others when their answer begins.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys

from headrace.cli.interrupts import Interruptible, leave_on_interrupt

TYPE_CHECKING = False
if TYPE_CHECKING:  # takes longer to load than all the rest
    from collections.abc import Callable, Sequence

# They say themselves from where on there is something to close.
_LOADING_COMMANDS = ("run", "chat", "embed", "serve")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit the process with its code.

    `arguments` are those after the program's name; None takes them from `sys.argv`.
    """
    is_left = leave_on_interrupt()
    # numpy's BLAS starts a thread per core that spins and is never asked: the kernels are our own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is not None:
        try:
            sys.exit(_load(given)())
        finally:
            if is_left:
                Interruptible().__enter__()
    importlib.import_module("headrace.cli.standard_streams").prepare()
    gc.disable()
    command = _load(given)
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


def _load(given: Sequence[str]) -> Callable[[], int]:
    """Import what the arguments name."""
    run_guarded = importlib.import_module("headrace.cli.errors").run_guarded
    build_app = importlib.import_module("headrace.cli.app").build_app
    app = build_app(given)

    def call() -> None:
        app(given, prog_name="headrace", standalone_mode=True)

    def call_interruptible() -> None:
        with Interruptible():
            call()

    chosen = next((word for word in given if not word.startswith("-")), None)

    def run() -> int:
        wanted = call if chosen in _LOADING_COMMANDS else call_interruptible
        code: int = run_guarded(wanted, given)
        return code

    return run
