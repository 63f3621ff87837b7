"""BodyRoom: how many bytes of request bodies are held at a time, of all callers together.

In: bytes as they arrive. Out: room for them until their request ends, or a refusal. Belongs to the
server's event loop.
"""

from __future__ import annotations

from headrace.core.config import ServerConfig
from headrace.core.errors import CapacityError

# What is decoded stays until its answer is complete: at once there is hardly more room.
RETRY_AFTER_S = 2.0


class BodyRoom:
    """What is held now."""

    def __init__(self) -> None:
        self.num_bytes = 0


class BodyShare:
    """What one request holds, until it gives it back."""

    def __init__(self, room: BodyRoom, config: ServerConfig) -> None:
        self._room, self._max_bytes = room, config.most_body_bytes
        self._num_bytes = 0

    def take(self, num_bytes: int) -> None:
        """Hold so many bytes more. Raises: CapacityError."""
        if self._room.num_bytes + num_bytes > self._max_bytes:
            raise CapacityError(
                "The requests that are received and answered now have bodies of "
                f"{self._room.num_bytes} bytes; all together may have {self._max_bytes} "
                "(max_total_body_bytes). Send the request again later.",
                RETRY_AFTER_S,
                is_full=False,
            )
        self._room.num_bytes += num_bytes
        self._num_bytes += num_bytes

    def give_back(self) -> None:
        """Hold nothing any more."""
        self._room.num_bytes -= self._num_bytes
        self._num_bytes = 0
