"""The process of a rank other than 0: loads its part of a model and follows rank 0's steps.

In: a StartRank, the agreement, then every SchedulerOutput, from the socket whose number it is
given. Out: its plan, that it is ready, log lines, its end. Entered by engine_process.py. It ends as
soon as the other side of the socket is gone, also in the middle of a step that waits for a rank.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
from pathlib import Path

from headrace.core.errors import HeadraceError
from headrace.core.process_name import RANK, name_process
from headrace.engine.error_record import to_record
from headrace.engine.frames import FrameSocket
from headrace.engine.messages import (
    EngineEnded,
    EngineNotStarted,
    RankPlanned,
    RankReady,
    RanksAgreed,
    StartRank,
    Stop,
)
from headrace.engine.started_model import start_model
from headrace.engine.worker import send_log
from headrace.executor.following_runner import FollowingRunner
from headrace.ops.rank_group import RankGroup

logger = logging.getLogger(__name__)


def main(file_descriptor: int, parent_id: int) -> None:
    """Follow rank 0 at the other end of a socket, and end."""
    name_process(RANK)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    threading.Thread(target=_end_with_leader, args=(file_descriptor,), daemon=True).start()
    link = FrameSocket(socket.socket(fileno=file_descriptor))
    try:
        start, *end = link.receive(None)
        if end:  # rank 0 was refused in the meantime
            os._exit(0)
        send_log(link, start.log_level)
        runner = _load(link, start)
        if runner is not None:
            _follow(link, runner)
    except (EOFError, OSError):
        os._exit(0)  # nobody is left to tell
    sys.stderr.flush()
    os._exit(0)


class FollowingPlace:
    """A place in the group that is told what was agreed on."""

    def __init__(self, link: FrameSocket, rank: int) -> None:
        self._link, self.rank = link, rank

    def agree(self, num_blocks: int, group: RankGroup) -> int:
        """Tell rank 0 the plan, and do as all ranks can."""
        self._link.send(RankPlanned(num_blocks))
        (agreed,) = self._link.receive(None)
        assert isinstance(agreed, RanksAgreed)  # noqa: S101 - rank 0 is the same program
        group.join(agreed.address)
        return agreed.num_blocks


def _load(link: FrameSocket, start: StartRank) -> FollowingRunner | None:
    """This rank's part of the model. Errors are for rank 0 to raise."""
    try:
        place = FollowingPlace(link, start.rank)
        started = start_model(
            Path(start.path), start.engine, start.free_bytes, place=place, is_first=False
        )
        link.send(RankReady())
        started.finish_packing()
    except Exception as error:
        if not isinstance(error, HeadraceError):
            logger.exception("Rank %d could not be started.", start.rank)
        link.send(EngineNotStarted(to_record(error)))
        return None
    return FollowingRunner(started.model, started.cache, started.ops, started.is_eager)


def _follow(link: FrameSocket, runner: FollowingRunner) -> None:
    """Take rank 0's steps until a Stop or an error."""
    gc.freeze()
    while True:
        for message in link.receive(None):
            if isinstance(message, Stop):
                return
            try:
                runner.submit(message)
                runner.collect()
            except Exception as error:
                link.send(EngineEnded(f"{type(error).__name__}: {error}"))
                return


def _end_with_leader(file_descriptor: int) -> None:
    """End this process when rank 0 is gone: it may be waiting for numbers that nobody sends."""
    watched = select.poll()
    watched.register(file_descriptor, 0)  # a hang-up is told in any case
    watched.poll()
    os._exit(0)
