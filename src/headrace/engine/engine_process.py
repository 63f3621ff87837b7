"""EngineProcess: the engine process, or that of a rank, as its parent sees it.

In: messages. Out: replies, its log, its end. Starting one takes a millisecond; it loads its code
while the parent does, so start it before importing anything that is not needed for that. Knows
nothing of requests.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

from headrace.core.errors import CapacityError, ConfigError, EngineDied
from headrace.engine.channel import ThreadChannel
from headrace.engine.error_record import to_error
from headrace.engine.frames import FrameSocket, encode
from headrace.engine.messages import (
    EngineNotStarted,
    EngineReady,
    LogLine,
    StartEngine,
    StartRank,
    Stop,
    ToProcess,
)

# Modules are found where this process finds them, and nowhere else. The comment is for whoever
# lists processes.
_CODE = """# headrace {what}: {model}
import sys
sys.path[:] = sys.argv[3].splitlines()
from headrace.engine.{module} import main
main(int(sys.argv[1]), int(sys.argv[2]))
"""
_TICK_S = 0.25
TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MAX_WAITING_MESSAGES = 2**20
"""More than the limits of requests let come together; they are checked before."""


class EngineProcess:
    """A child process, told to load a model. Any thread may send; one receives. `close` it."""

    def __init__(self, order: StartEngine | StartRank) -> None:
        """Raises: ConfigError for a path that cannot be told to another process."""
        _check_texts(order)
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            folders = "\n".join(folder or os.getcwd() for folder in sys.path)
            what, module = "engine", "worker"
            if isinstance(order, StartRank):
                what, module = f"rank {order.rank}", "rank_worker"
            model = ascii(Path(order.path).name)
            code = _CODE.format(what=what, model=model, module=module)
            command = [sys.executable, "-P", "-c", code, str(number), str(os.getpid()), folders]
            environ = {"OPENBLAS_NUM_THREADS": "1"} | dict(os.environ)
            with _signals_held():
                self._process = subprocess.Popen(  # noqa: S603  (our own code, no shell)
                    command, stdin=subprocess.DEVNULL, pass_fds=(number,), env=environ
                )
        self._link = FrameSocket(ours)
        self._waiting: ThreadChannel[ToProcess | None] = ThreadChannel(MAX_WAITING_MESSAGES)
        # A process that reads nothing must not hold up those who send to it.
        self._sender = Thread(target=self._send_waiting, name="headrace-send", daemon=True)
        self._sender.start()
        self.send(order)

    @property
    def id(self) -> int:
        """The number the system knows it by."""
        return self._process.pid

    def send(self, message: ToProcess) -> None:
        """Pass a message on without waiting. What a process that is gone should get is dropped.

        Raises: CapacityError.
        """
        self._waiting.send(message)

    def send_now(self, message: object) -> None:
        """Send past all that waits, in this thread, to a process that always reads.

        Raises: OSError when it is gone.
        """
        self._link.send(message)

    def receive(self, timeout_s: float | None) -> list[Any]:
        """Take replies, waiting up to `timeout_s` for the first; log lines are logged here.

        Raises: EOFError when it has ended and everything is read.
        """
        replies = []
        for message in self._link.receive(timeout_s):
            if isinstance(message, LogLine):
                log_line(message, self.id)
            else:
                replies.append(message)
        return replies

    def wait_ready(
        self, timeout_s: float | None = None, stopping: Event | None = None
    ) -> EngineReady:
        """Wait until the model runs.

        Raises: the error for which it does not; EngineDied when it ends, time is up or `stopping`.
        """
        begin_s = time.monotonic()
        while timeout_s is None or time.monotonic() < begin_s + timeout_s:
            try:
                replies = self.receive(_TICK_S)
            except EOFError:
                raise EngineDied(f"the engine process {self.close()} while it started") from None
            for reply in replies:
                if isinstance(reply, EngineNotStarted):
                    raise to_error(reply.error)
                if isinstance(reply, EngineReady):
                    return reply
            if stopping is not None and stopping.is_set():
                raise EngineDied("the engine was stopped while it started")
        raise EngineDied(f"the engine was not ready within {timeout_s:.0f} s")

    def processor_s(self) -> float | None:
        """Processor time of all its threads; None where the system does not say.

        While it waits for a disk the time is taken as moving on. Source: proc_pid_stat(5).
        """
        try:
            with open(f"/proc/{self.id}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return None
        if fields[0] == "D":
            return time.monotonic()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self, timeout_s: float = 0.0) -> None:
        """Let it end within `timeout_s`, then kill it. What it has sent can still be read."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def close(self, timeout_s: float = 0.0) -> str:
        """End it and let go of it. Returns how it ended, as a verb and its object.

        Calling it twice is harmless.
        """
        self.end(timeout_s)
        code = self._process.wait()
        with contextlib.suppress(CapacityError):
            self._waiting.send(None)
        self._sender.join()  # it fails to send to a process that is gone
        self._link.close()
        return _describe(code)

    def _send_waiting(self) -> None:
        """Body of the sending thread, until the process is gone or closed."""
        with contextlib.suppress(OSError):
            while True:
                for message in self._waiting.receive(None):
                    if message is None:
                        return
                    self._link.send(message)
                    if isinstance(message, Stop):
                        return


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """What a terminal sends to all its processes is the parent's to answer.

    A child inherits what this thread holds back, from its first moment on; it ignores them later.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_texts(order: StartEngine | StartRank) -> None:
    """Messages are UTF-8, names of files need not be. Raises: ConfigError."""
    try:
        encode(order)
    except UnicodeEncodeError as error:
        hint = "Rename the file or folder, or give a link to it."
        raise ConfigError("a path of the engine", error.object, "UTF-8", hint) from None


def log_line(line: LogLine, process_id: int) -> None:
    """Log what an engine process logged, as it was there."""
    logger = logging.getLogger(line.logger)
    if logger.isEnabledFor(line.level):
        fields = {"process": "engine", "process_id": process_id}
        record = logger.makeRecord(
            *(line.logger, line.level, "", 0, "%s", (line.text,), None), extra={"fields": fields}
        )
        record.exc_text, record.created = line.traceback, line.at_s
        logger.handle(record)


def _describe(code: int) -> str:
    """How a process ended, from its exit code."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
