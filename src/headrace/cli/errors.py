"""What a command's failure looks like: one line on stderr and an exit code.

In: whatever a command raised. Out: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
`HEADRACE_LOG_LEVEL=debug` shows the traceback above the line.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from headrace.cli import standard_streams
from headrace.cli.interrupts import EXIT_INTERRUPTED
from headrace.config.env import is_debugging
from headrace.core.errors import (
    ConfigError,
    HeadraceError,
    InvalidParameter,
    ModelNotFound,
    UnsupportedParameter,
)

EXIT_FAILED = 1
EXIT_USAGE = 2


def run_guarded(run: Callable[[], object], arguments: Sequence[str] = ()) -> int:
    """Run a command and turn what it raises into a line on stderr and an exit code.

    `arguments` are those that it was given, for errors in their words. Output that cannot be
    written is an error of the command.
    """
    code = _run(run, arguments)
    return code if code else _run(standard_streams.write_out, arguments)


def _run(run: Callable[[], object], arguments: Sequence[str]) -> int:
    try:
        run()
    except SystemExit as stop:
        if stop.code is None:
            return 0
        return stop.code if isinstance(stop.code, int) else EXIT_FAILED
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`headrace models | head`); keep the interpreter's last flush quiet.
        standard_streams.drop_rest()
        return EXIT_FAILED
    except (ConfigError, InvalidParameter, UnsupportedParameter, ModelNotFound) as error:
        # What knows the words is loaded when something is wrong.
        in_words = importlib.import_module("headrace.cli.as_given").in_words
        code = EXIT_FAILED if isinstance(error, ModelNotFound) else EXIT_USAGE
        return _report(error, in_words(error, arguments, os.environ), code)
    except HeadraceError as error:
        return _report(error, error.message, EXIT_FAILED)
    except OSError as error:
        told = standard_streams.told_of(error)
        if told is not None:
            standard_streams.drop_rest()
        return _report(error, told or _describe(error), EXIT_FAILED)
    except Exception as error:
        told = standard_streams.told_of(error) if isinstance(error, UnicodeEncodeError) else None
        if told is not None:
            return _report(error, told, EXIT_FAILED)
        hint = "This is a bug in headrace; HEADRACE_LOG_LEVEL=debug shows where."
        return _report(error, f"{type(error).__name__}: {error} ({hint})", EXIT_FAILED)
    return 0


def _report(error: BaseException, text: str, code: int) -> int:
    if is_debugging(os.environ):
        traceback.print_exception(error, file=sys.stderr)
    sys.stderr.write(f"error: {text}\n")
    return code


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error)
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{where}no space left on the disk. Free some, or set HEADRACE_HOME to another disk."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}{reason}. Check its permissions, or set HEADRACE_HOME to a folder you own."
    return f"{where}{reason}"
