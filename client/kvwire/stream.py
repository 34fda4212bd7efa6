"""One stream of a connection: a call's messages in and out, under flow control. Pure: bytes and method calls, no waiting.

Inward: DATA frames become messages (length-prefixed, gRPC over HTTP/2), each at most `message_size_max`, checked at the prefix.
The peer may have `STREAM_WINDOW_BYTES` unread here, and the rest of one larger message if the connection has room for it:

    window = STREAM_WINDOW_BYTES + granted - unread - partial        (what we let the peer send; §5.2 of RFC 9113)

Outward: what does not fit through the windows, or into a socket that is full, waits here in order; the end of the stream waits
behind it.

Subclasses react: `on_message`, `on_end`, `on_reset`, `on_writable`, and their role's `on_headers`.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from kvwire import frames, limits
from kvwire.codes import INTERNAL, RESOURCE_EXHAUSTED
from kvwire.frames import DATA, END_STREAM
from kvwire.pieces import Pieces

if TYPE_CHECKING:
    from kvwire.connection import Connection

PREFIX_SIZE = 5
"""Of a message: one byte that says whether it is compressed, four of its size."""
_prefix = struct.Struct(">BI").pack
HALF_WINDOW = limits.STREAM_WINDOW_BYTES // 2


class MessageRefused(Exception):
    """A message that is not taken in: too large, or cut short, or badly compressed. The call ends with `code`."""

    def __init__(self, code: int, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


def prefix(size: int, compressed: int = 0) -> bytes:
    """What stands before a message of a size."""
    return _prefix(compressed, size)


def framed(message: bytes, compressed: int = 0) -> bytes:
    """A message with its prefix."""
    return _prefix(compressed, len(message)) + message


class Stream:
    """One stream, of either role."""

    __slots__ = (
        "_ending",
        "_partial",
        "_unsent",
        "began",
        "connection",
        "discards",
        "granted",
        "held",
        "id",
        "is_closed",
        "local_ended",
        "message_size_max",
        "missing",
        "receive_window",
        "remote_ended",
        "send_window",
        "unread",
    )

    def __init__(self, connection: Connection[Any], stream_id: int, message_size_max: int) -> None:
        self.connection, self.id, self.message_size_max = connection, stream_id, message_size_max
        self.send_window = connection.peer_stream_window
        self.receive_window = limits.STREAM_WINDOW_BYTES
        self.began = connection.received_at
        # Bytes: of messages that were delivered and not read yet (whoever queues them counts them); of the message under way
        # that are still to come; let in beyond the window for it; kept for this stream in all.
        self.unread = self.missing = self.granted = self.held = 0
        self.remote_ended = self.local_ended = self.is_closed = False
        self.discards = False
        """Whether what still comes is of no use to anybody."""
        self._partial: Pieces | None = None
        self._unsent: deque[memoryview] | None = None
        self._ending: bytes | None = None

    # ---- what subclasses do with it ----------------------------------------------------------------------------------

    def on_message(self, compressed: int, message: bytes) -> None:
        """A whole message is here. Raises `MessageRefused`."""
        raise NotImplementedError

    def on_end(self) -> None:
        """The peer has ended its side; every message was delivered before."""
        raise NotImplementedError

    def on_refused(self, refused: MessageRefused) -> None:
        """What the peer sends is not taken in; nothing more of it is delivered."""
        raise NotImplementedError

    def on_reset(self, code: int | None, why: str) -> None:
        """The stream is over: the peer reset it, or (None) the connection is lost."""
        raise NotImplementedError

    def on_writable(self) -> None:
        """All that waited has left."""

    def on_local_end(self) -> None:
        """The end of our side has left."""

    def hold(self, size: int) -> None:
        """So many bytes more (negative: less) are kept. That may be too much, and end the connection."""
        if self.is_closed:
            return
        self.held += size
        connection = self.connection
        if connection.holds_nothing:
            return
        connection.held += size  # (As `connection.hold`, which this spares each call.)
        memory = connection.memory
        memory.held += size
        if size > 0 and memory.held > memory.limit:
            memory.make_room()

    # ---- inward ------------------------------------------------------------------------------------------------------

    def receive(self, payload: bytes, size: int, ended: bool) -> None:
        """A DATA frame's payload; `size` counts its padding. Raises `frames.ProtocolError` for more than the window."""
        self.receive_window -= size
        if self.receive_window < 0:
            raise frames.ProtocolError(frames.FLOW_CONTROL_ERROR, f"stream {self.id}: more data than its window allows")
        if self.remote_ended:
            raise frames.ProtocolError(frames.STREAM_CLOSED, f"stream {self.id}: data after its end")
        if ended:
            self.remote_ended = True
        if self.discards:
            if ended:
                self.on_end()
            return
        try:
            length = len(payload) - PREFIX_SIZE
            if (
                self._partial is None
                and length >= 0
                and int.from_bytes(payload[1:5], "big") == length
                and length <= self.message_size_max
            ):
                self.on_message(payload[0], payload[PREFIX_SIZE:])
            elif payload:
                self._assemble(payload)
            if ended:
                self._end_receiving()
        except MessageRefused as refused:
            self._forget_partial()
            self.on_refused(refused)

    def _end_receiving(self) -> None:
        if self.is_closed or self in self.connection.postponed:
            return
        if self._partial is not None:
            raise MessageRefused(INTERNAL, "the stream ended within a message")
        self.on_end()

    def go_on(self) -> None:
        """Looks at the messages that were put off when the connection's turn was over."""
        self.connection.postponed.pop(self, None)
        if self.is_closed:
            return
        try:
            if self._partial is not None:
                self._deliver(self._partial)
            if self.remote_ended:
                self._end_receiving()
            elif self._partial is not None:
                self.replenish()
        except MessageRefused as refused:
            self._forget_partial()
            self.on_refused(refused)

    def _assemble(self, payload: bytes) -> None:
        size = len(payload)
        partial = self._partial
        if partial is None:
            partial = self._partial = Pieces(payload)
        else:
            partial.add(payload)
        self.hold(size)
        if self.is_closed:
            return
        if self.missing > size:
            self.missing -= size
        else:
            self.missing = 0
            self._deliver(partial)
        if self._partial is not None and not self.remote_ended:
            self.replenish()

    def _deliver(self, partial: Pieces) -> None:
        """The messages that are whole."""
        connection = self.connection
        while (head := partial.prefix(PREFIX_SIZE)) is not None:
            if connection.work >= limits.WORK_PER_TURN_MAX:
                connection.postponed[self], connection.has_more = None, True
                return
            size = int.from_bytes(head[1:], "big")
            if size > self.message_size_max:
                raise MessageRefused(
                    RESOURCE_EXHAUSTED, f"Received message larger than max ({size} vs. {self.message_size_max})"
                )
            end = PREFIX_SIZE + size
            if partial.size < end:
                self.missing = end - partial.size
                return
            message = partial.take(PREFIX_SIZE, end)
            self.hold(-end)
            self.release_grant()
            connection.work += 1
            self.on_message(head[0], message)
            if self.is_closed or self._partial is None:
                return
        if not partial.size:
            self._partial = None

    def _forget_partial(self) -> None:
        if self._partial is not None:
            self.hold(-self._partial.size)
            self._partial = None
        self.release_grant()

    def release_grant(self) -> None:
        """The message for which room was made is here, or will not come."""
        if self.granted:
            granted, self.granted = self.granted, 0
            self.connection.room.give_back(granted)

    def replenish(self) -> None:
        """Gives the peer back what was read, and lets the rest of a large message in."""
        if self.remote_ended or self.is_closed or self.connection.closed is not None:
            return
        if self.missing > self.receive_window and not self.granted and not self.connection.room.grant(self):
            return
        partial = 0 if self._partial is None else self._partial.size
        credit = limits.STREAM_WINDOW_BYTES + self.granted - self.unread - partial - self.receive_window
        if credit >= HALF_WINDOW or (credit > 0 and self.missing > self.receive_window):
            self.receive_window += credit
            self.connection.put(frames.window_update(self.id, credit))

    # ---- outward -----------------------------------------------------------------------------------------------------

    @property
    def is_blocked(self) -> bool:
        """Whether something waits for a window or for the socket."""
        return self._unsent is not None

    def send(self, message: bytes, compressed: int = 0, ends: bool = False) -> bool:
        """Sends a message; False: it waits, and `on_writable` follows. `ends`: it is the last."""
        if self.is_closed or self.local_ended:
            return True
        connection, size = self.connection, len(message) + PREFIX_SIZE
        if (
            self._unsent is None
            and size <= self.send_window
            and size <= connection.send_window
            and size <= connection.frame_size_max
            and connection.is_writable
        ):
            self.send_window -= size
            connection.send_window -= size
            connection.has_sent = True
            head = frames.head(DATA, END_STREAM if ends else 0, self.id, size)
            connection.put(head + prefix(len(message), compressed) + message)
            if ends:
                self.local_ended = True
                self.on_local_end()
            return True
        if self._unsent is None:
            self._unsent = deque()
        # The prefix leaves with the first frame's worth; the rest is not copied.
        first = prefix(len(message), compressed) + message[: connection.frame_size_max - PREFIX_SIZE]
        for part in (memoryview(first), memoryview(message)[connection.frame_size_max - PREFIX_SIZE :]):
            if part:
                self._unsent.append(part)
                self.hold(len(cast(bytes, part.obj)))
                if self._unsent is None:
                    return True  # That was too much, and the connection is over.
        if ends:
            self.end(b"")
        if not self.is_closed:
            connection.pump(self)
        return self._unsent is None

    def end(self, last: bytes) -> None:
        """Ends our side: `last` is the whole frame that says so, b"" for an empty DATA frame; waits behind what is unsent."""
        if self.is_closed:
            return
        self.local_ended = True
        if self._unsent is not None:
            self._ending = last or frames.frame(DATA, END_STREAM, self.id)
            return
        self.connection.put(last or frames.frame(DATA, END_STREAM, self.id))
        self.on_local_end()

    def pump(self) -> bool:
        """Sends a turn's worth of what waits; True: there is more, and only the connection holds it up."""
        connection, unsent = self.connection, self._unsent
        if unsent is None:
            return False
        turn = limits.SENT_FRAME_SIZE_BYTES_MAX
        while unsent:
            chunk = unsent[0]
            size = min(len(chunk), self.send_window, connection.send_window, connection.frame_size_max)
            if size <= 0 or not connection.is_writable or turn <= 0:
                return self.send_window > 0
            self.send_window -= size
            connection.send_window -= size
            turn -= size
            connection.has_sent = True
            if size == len(chunk):
                unsent.popleft()
                self.hold(-len(cast(bytes, chunk.obj)))  # A part of it keeps all of it.
            else:
                unsent[0] = chunk[size:]
            connection.put_data(frames.head(DATA, 0, self.id, size), chunk[:size])
        self._unsent = None
        if self._ending is not None:
            connection.put(self._ending)
            self._ending = None
            self.on_local_end()
        self.on_writable()
        return False

    def close(self) -> None:
        """Forgets the stream: nothing is sent or delivered any more."""
        if self.is_closed:
            return
        if self.held:
            self.hold(-self.held)
        self.is_closed = True
        if self._partial is not None or self._unsent is not None:
            self._partial = self._unsent = self._ending = None
            self.connection.postponed.pop(self, None)
            self.connection.turns.forget(self)
            self.connection.room.forget(self)
        if self.granted:
            self.release_grant()
        self.connection.forget(self)
