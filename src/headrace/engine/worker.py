"""The engine process: loads a model and runs its steps until told to stop, or left alone.

In: a StartEngine, then messages, from the socket whose number it is given. Out: EngineReady, then
replies and log lines. Entered by `engine_process.py`. Sees token ids, never text. It ends with its
parent, whatever ends that, and leaves signals from the terminal to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import logging
import os
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from headrace.core.clock import SystemClock
from headrace.core.errors import HeadraceError
from headrace.core.process_name import ENGINE, name_process
from headrace.engine.channel import ThreadChannel
from headrace.engine.error_record import to_record
from headrace.engine.frames import FrameSocket
from headrace.engine.messages import (
    Abort,
    CheckForm,
    EngineEnded,
    EngineMessage,
    EngineNotStarted,
    EngineOrder,
    EngineReady,
    FormChecked,
    LoadAdapter,
    LogLine,
    StartEngine,
    Submit,
    UnloadAdapter,
)
from headrace.engine.started_model import StartedModel, kernels_name, start_model

_PR_SET_PDEATHSIG = 1
# Loaded while C++ packs the weights.
_ENGINE = "headrace.engine.engine"
_RUNNER = "headrace.executor.model_runner"
_ADAPTERS = "headrace.executor.adapter_table"
_RULES = "headrace.sampling.logits_rule"
_LOOP = "headrace.engine.loop"
# Loaded with the first form.
_TEXT = "headrace.engine.model_text"

logger = logging.getLogger(__name__)


def main(file_descriptor: int, parent_id: int) -> None:
    """Serve the process at the other end of a socket, and end."""
    _end_with_parent(parent_id)
    name_process(ENGINE)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    link = FrameSocket(socket.socket(fileno=file_descriptor))
    try:
        (start,) = link.receive(None)
        send_log(link, start.log_level)
        worker = _load(link, start)
        if worker is not None:
            worker.run()
    except (EOFError, OSError):
        os._exit(0)  # nobody is left to tell
    sys.stderr.flush()
    os._exit(0)


def _end_with_parent(parent_id: int) -> None:
    """Have the system kill this process when its parent is gone, also one that is stopped."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_id:
        os._exit(0)


def send_log(link: FrameSocket, level: int) -> None:
    """Have what this process logs, from this level on, logged at the other end of the link."""
    root = logging.getLogger()
    root.handlers = [LinkHandler(link)]
    root.setLevel(level)


def _load(link: FrameSocket, start: StartEngine) -> Worker | None:
    """Load the model and say so. Errors are for the parent to raise."""
    try:
        draft_path = Path(start.draft_path) if start.draft_path else None
        started = start_model(
            Path(start.path),
            start.engine,
            start.free_bytes,
            draft_path=draft_path,
            is_first=start.is_first,
        )
        worker = Worker(link, start, started)
        started.finish_packing()
        if started.ranks is not None:
            started.ranks.watch(partial(_end_with_rank, link))
    except Exception as error:
        if not isinstance(error, HeadraceError):
            logger.exception("The engine could not be started.")
        link.send(EngineNotStarted(to_record(error)))
        return None
    capacity = started.capacity
    link.send(
        EngineReady(
            num_blocks=capacity.num_blocks,
            block_size=capacity.block_size,
            max_model_len=capacity.max_model_len,
            total_bytes=capacity.total_bytes,
            memory_plan=capacity.describe(),
            kv_cache_dtype=capacity.kv_cache_dtype,
            vocab_size=started.config.vocab_size,
            vector_size=started.config.hidden_size,
            ops=kernels_name(started.ops, start.engine),
        )
    )
    return worker


def _end_with_rank(link: FrameSocket, sentence: str) -> None:
    """End this process, whose steps would wait for ever for a rank that is gone."""
    with contextlib.suppress(OSError):
        link.send(EngineEnded(sentence))
    os._exit(1)


class Worker:
    """Three threads: steps, messages that come in, forms. Only forms need the vocabulary."""

    def __init__(self, link: FrameSocket, start: StartEngine, started: StartedModel) -> None:
        self._link = link
        build: Any = importlib.import_module(_ENGINE)
        self._rules: Any = importlib.import_module(_RULES).LogitsRules(
            lambda: importlib.import_module(_TEXT).load_tokenizer(
                started.reader, Path(start.cache_dir), is_brief=True
            ),
            started.config.vocab_size,
        )
        self._ranks = started.ranks
        adapters = None
        if started.ranks is None:
            adapters = importlib.import_module(_ADAPTERS).AdapterTable(
                started.model,
                started.ops,
                started.reader.architecture,
                started.capacity.adapter_bytes,
            )
        drafter = build.make_drafter(started)
        runner = importlib.import_module(_RUNNER).ModelRunner(
            started.model,
            started.cache,
            started.ops,
            started.is_eager,
            self._rules,
            adapters,
            drafter.model if drafter else None,
        )
        engine = build.make_engine(
            start.engine, started.capacity, runner, SystemClock(), drafter, adapters, started.ranks
        )
        limits = build.scheduler_limits(start.engine, started.capacity.max_model_len)
        self._inbox: ThreadChannel[EngineMessage] = ThreadChannel(4 * limits.max_num_requests + 1)
        self._loop = importlib.import_module(_LOOP).EngineLoop(engine, self._inbox, link)
        self._forms = ThreadPoolExecutor(1, thread_name_prefix="headrace-forms")
        # What waits for the compiler: ids of requests, and what came behind those.
        self._held: set[object] = set()

    def run(self) -> None:
        """Take steps in this thread until a Stop or an error."""
        gc.freeze()  # what is loaded stays: a step need not wait until all of it was looked through
        threading.Thread(target=self._read, name="headrace-messages", daemon=True).start()
        self._loop.run()
        if self._ranks is not None:
            self._ranks.close()

    def _read(self) -> None:
        """Pass messages on; without a parent there is nothing to go on for."""
        try:
            while True:
                for message in self._link.receive(None):
                    if isinstance(message, CheckForm):
                        self._forms.submit(self._check, message)
                    elif self._must_wait(message):
                        self._forms.submit(self._forward, message)
                    else:
                        self._inbox.send(message, None)
        except (EOFError, OSError):
            os._exit(0)
        except Exception:
            logger.exception("A message could not be read.")
            os._exit(1)

    def _must_wait(self, message: EngineMessage) -> bool:
        """Whether it is about a form that would have the steps wait for the compiler to load, or
        about all requests while one of them waits for that.

        That is after a restart: before an answer's first submission its form is checked.
        """
        if isinstance(message, Abort):
            return message.request_id in self._held
        if isinstance(message, LoadAdapter | UnloadAdapter | EngineOrder):
            if self._held:
                self._held.add(message)
            return message in self._held
        if not isinstance(message, Submit) or message.spec.sampling.structured_outputs is None:
            return False
        if not self._rules.is_open:
            self._held.add(message.spec.request_id)
        return message.spec.request_id in self._held

    def _forward(self, message: EngineMessage) -> None:
        """Pass on what had to wait. A form that cannot be held to is told by the step."""
        if isinstance(message, Submit) and message.spec.sampling.structured_outputs is not None:
            with contextlib.suppress(HeadraceError):
                self._rules.check(message.spec.sampling.structured_outputs)
        self._inbox.send(message, None)
        self._held.discard(message.spec.request_id if isinstance(message, Submit) else message)

    def _check(self, message: CheckForm) -> None:
        error: Exception | None = None
        try:
            self._rules.check(message.form)
        except Exception as failure:
            error = failure
        record = None if error is None else to_record(error)
        self._link.send(FormChecked(message.check_id, record))


class LinkHandler(logging.Handler):
    """Sends the log to the parent, which has the format and the file."""

    def __init__(self, link: FrameSocket) -> None:
        super().__init__()
        self._link = link
        self._formatter = logging.Formatter("%(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, with its traceback."""
        try:
            info = record.exc_info
            traceback = self._formatter.formatException(info) if info and info[0] else None
            text = record.getMessage()
            self._link.send(LogLine(record.name, record.levelno, text, traceback, record.created))
        except OSError:
            self.handleError(record)
