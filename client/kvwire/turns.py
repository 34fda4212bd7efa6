"""Streams of one connection that hold data back, for a window or for the socket: each sends a frame's worth, in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kvwire import limits

if TYPE_CHECKING:
    from kvwire.connection import Connection
    from kvwire.stream import Stream

PUMPS_PER_TURN = limits.WRITTEN_PER_TURN_BYTES_MAX // limits.SENT_FRAME_SIZE_BYTES_MAX


class Turns:
    """The queue of one connection's streams."""

    __slots__ = ("_connection", "_is_wanted", "_waiting", "wants_turn")

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection
        self._waiting: dict[Stream, None] = {}
        self._is_wanted = False
        self.wants_turn: Callable[[], None] | None = None
        """Called when much has been sent and more waits: `go_on` should follow, behind other connections."""

    def add(self, stream: Stream) -> None:
        """A stream holds something back."""
        self._waiting[stream] = None

    def forget(self, stream: Stream) -> None:
        """A stream is closed."""
        self._waiting.pop(stream, None)

    def go_on(self) -> None:
        """It is this connection's turn again."""
        self._is_wanted = False
        self.pump()

    def pump(self) -> None:
        """Sends what can be sent now, unless the connection has to wait for its turn."""
        connection, waiting, pumped = self._connection, self._waiting, 0
        while waiting and connection.send_window > 0 and connection.is_writable and not self._is_wanted:
            if pumped >= PUMPS_PER_TURN and self.wants_turn is not None:
                self._is_wanted = True
                self.wants_turn()
                return
            pumped += 1
            stream = next(iter(waiting))
            del waiting[stream]
            if stream.pump():
                waiting[stream] = None
