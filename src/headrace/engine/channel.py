"""From one side of the engine to the other. ThreadChannel: a bounded queue between two threads.

In and out: messages of engine/messages.py, in order. A receiver with nothing to do is parked, not
spinning. Knows nothing of what the messages mean. Between processes: engine/frames.py.
"""

from __future__ import annotations

from collections import deque
from threading import Condition, RLock
from typing import Generic, Protocol, TypeVar

from headrace.core.errors import CapacityError

Message = TypeVar("Message")
Sent = TypeVar("Sent", contravariant=True)


class Sender(Protocol[Sent]):
    """Where messages go in. Full is full: whoever sends waits, or is told."""

    def send(self, message: Sent, timeout_s: float | None = 0.0) -> None: ...


class ThreadChannel(Generic[Message]):
    """Any thread may send; one receives."""

    def __init__(self, max_num_messages: int) -> None:
        self.max_num_messages = max_num_messages
        self._messages: deque[Message] = deque()
        # Reentrant: a collected stream sends its abort from wherever the collector runs.
        self._changed = Condition(RLock())

    def __len__(self) -> int:
        return len(self._messages)

    def send(self, message: Message, timeout_s: float | None = 0.0) -> None:
        """Append a message, waiting for room up to `timeout_s`; None waits for ever.

        Raises: CapacityError when there is no room by then.
        """
        with self._changed:
            if not self._changed.wait_for(self._has_room, timeout_s):
                raise CapacityError(
                    f"{self.max_num_messages} messages wait for the engine. Try again later."
                )
            self._messages.append(message)
            self._changed.notify_all()

    def receive(self, timeout_s: float | None) -> list[Message]:
        """Take all messages, waiting up to `timeout_s` for the first; None waits for ever."""
        with self._changed:
            self._changed.wait_for(self.__len__, timeout_s)
            messages = list(self._messages)
            self._messages.clear()
            self._changed.notify_all()
            return messages

    def _has_room(self) -> bool:
        return len(self._messages) < self.max_num_messages
