"""Messages as bytes on a socket: length, kind, msgpack.

In and out: the records of engine/messages.py. Both ends are of the same program, so a kind is a
number and nothing is versioned. Knows nothing of what the messages mean.
"""

from __future__ import annotations

import select
import socket
import struct
from functools import cache
from threading import RLock
from typing import Any

import msgspec

from headrace.core.step import SchedulerOutput, StepReport
from headrace.engine.messages import (
    Abort,
    AdapterLoaded,
    AdapterUnloaded,
    CheckForm,
    EngineEnded,
    EngineNotStarted,
    EngineReady,
    FormChecked,
    Inspect,
    Inspection,
    LoadAdapter,
    LogLine,
    OrderDone,
    PauseEngine,
    RankPlanned,
    RankReady,
    RanksAgreed,
    ResetPrefixes,
    ResumeEngine,
    StartEngine,
    StartRank,
    Stop,
    Submit,
    UnloadAdapter,
)

_KINDS: tuple[type, ...] = (
    StartEngine, EngineReady, EngineNotStarted, Submit, Abort, Stop, StepReport, EngineEnded,
    CheckForm, FormChecked, LogLine, Inspect, Inspection,
    LoadAdapter, AdapterLoaded, UnloadAdapter, AdapterUnloaded,
    PauseEngine, ResumeEngine, ResetPrefixes, OrderDone,
    StartRank, RankPlanned, RanksAgreed, RankReady, SchedulerOutput,
)  # fmt: skip
_NUMBER_OF = {kind: number for number, kind in enumerate(_KINDS)}
_HEADER = struct.Struct("<IB")
_RECEIVE_BYTES = 256 * 1024
_encoder = msgspec.msgpack.Encoder()


def encode(message: object) -> bytes:
    """One message as one frame."""
    payload = _encoder.encode(message)
    return _HEADER.pack(len(payload), _NUMBER_OF[type(message)]) + payload


@cache
def _decoder(number: int) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(_KINDS[number])


class FrameSocket:
    """A connected socket of messages. Any thread may send; one receives."""

    def __init__(self, connected: socket.socket) -> None:
        # Blocking, and waited for with poll: a timeout of the socket would count for senders too.
        self._socket = connected
        self._readable = select.poll()
        self._readable.register(connected, select.POLLIN)
        self._received = bytearray()
        # Reentrant: what a collected object logs is sent from wherever the collector runs.
        self._sending = RLock()

    def send(self, message: object, timeout_s: float | None = None) -> None:
        """Send a message whole, waiting while the other side does not read.

        Raises: OSError when the other side is gone.
        """
        frame = encode(message)
        with self._sending:
            self._socket.sendall(frame)

    def receive(self, timeout_s: float | None) -> list[Any]:
        """Take the messages that are there, waiting up to `timeout_s` for the first.

        Raises: EOFError when the other side is gone and all is read.
        """
        while timeout_s is None or self._readable.poll(timeout_s * 1000):
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except ConnectionError:
                data = b""
            if not data:
                raise EOFError
            self._received += data
            messages = self._take()
            if messages:
                return messages
        return []

    def close(self) -> None:
        """Let go of the socket; the other side sees the end."""
        self._socket.close()

    def _take(self) -> list[Any]:
        """Decode the frames that are complete."""
        messages, start = [], 0
        while len(self._received) - start >= _HEADER.size:
            length, number = _HEADER.unpack_from(self._received, start)
            end = start + _HEADER.size + length
            if end > len(self._received):
                break
            payload = memoryview(self._received)[start + _HEADER.size : end]
            messages.append(_decoder(number).decode(payload))
            payload.release()
            start = end
        del self._received[:start]
        return messages
