"""Room for messages that are larger than a stream's window: so many bytes of them may be under way on one connection.

All or nothing: a message is let in whole or waits its turn, so that two halves never wait for each other.
"""

from __future__ import annotations

from kvwire import limits
from kvwire.stream import Stream


class Room:
    """What one connection has promised to take in."""

    __slots__ = ("_granted", "_waiting")

    def __init__(self) -> None:
        self._granted = 0
        self._waiting: dict[Stream, None] = {}

    def grant(self, stream: Stream) -> bool:
        """Lets the rest of a stream's message in, or puts the stream into the queue for that. A message larger than the whole
        room gets in alone."""
        wanted = stream.missing - max(0, stream.receive_window)
        if self._granted and self._granted + wanted > limits.LARGE_MESSAGES_SIZE_BYTES_MAX:
            self._waiting[stream] = None
            return False
        self._granted += wanted
        stream.granted = wanted
        return True

    def give_back(self, size: int) -> None:
        """A large message is here, or given up: the next ones may come."""
        self._granted -= size
        while self._waiting:
            stream = next(iter(self._waiting))
            del self._waiting[stream]
            stream.replenish()
            if stream in self._waiting:
                return

    def forget(self, stream: Stream) -> None:
        """A stream is closed."""
        self._waiting.pop(stream, None)
