"""Binds a connection to a socket: bytes in, one write for each turn of the event loop, and the timers that a core has not.

Owns the transport, and nothing of the protocol. All that is put in one turn leaves in one `write`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, cast

from kvwire import limits
from kvwire.connection import Connection

KEEPALIVE_PAYLOAD = b"kvwire/k"
"""Of the pings that ask whether the peer lives."""
LAST_LOOK_SECONDS = 0.1
LAST_WORDS_SECONDS = 1.0
"""What a peer that broke the protocol gets to read why."""


class Link(asyncio.Protocol):
    """One connection's socket."""

    reads_to_the_end = True
    """Whether what came before the peer's end matters: answers do, requests of a caller who has gone do not."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: Connection[Any],
        on_made: Callable[[Link], None],
        on_lost: Callable[[Link], None],
    ) -> None:
        self.connection, self._loop, self._on_made, self._on_lost = connection, loop, on_made, on_lost
        self.transport: asyncio.Transport | None = None
        self._receive, self._time = connection.receive, loop.time
        self.made_at = loop.time()
        self._closing: asyncio.TimerHandle | None = None
        self._is_resting = self._has_ended = False
        self._unread_by_peer = 0
        self._pinged_at: float | None = None
        self._is_last_look = False
        connection.wants_output = self._schedule
        connection.must_write = self.flush
        connection.turns.wants_turn = self._want_turn

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(limits.WRITE_BUFFER_BYTES_MAX)
        self._on_made(self)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        connection = self.connection
        self._receive(data, self._time())
        if (connection.has_more or len(data) > limits.READ_PER_TURN_BYTES_MAX) and not self._is_resting:
            self._rest()
        if connection.closed is not None:
            self.end(LAST_WORDS_SECONDS)

    def _rest(self) -> None:
        """Lets the other connections have their turn before the rest is looked at."""
        self._is_resting = True
        if self.transport is not None:
            self.transport.pause_reading()
        self._loop.call_soon(self._go_on)

    def _finish(self) -> None:
        """Looks at what was put off, if it may be answers: there is no later turn."""
        connection = self.connection
        if not self.reads_to_the_end:
            return
        while connection.has_more and connection.closed is None:
            connection.resume(self._time())

    def _go_on(self) -> None:
        connection, transport = self.connection, self.transport
        connection.resume(self._time())
        if connection.has_more:
            self._loop.call_soon(self._go_on)
            return
        self._is_resting = False
        if transport is not None and not transport.is_closing():
            transport.resume_reading()
            if connection.closed is not None:
                self.end(LAST_WORDS_SECONDS)

    def eof_received(self) -> None:
        """The peer sends nothing more: neither shall we, once all that came was looked at."""
        self._finish()
        self.connection.lose("the peer closed the connection")

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is closed, by us or by the peer."""
        if self._closing is not None:
            self._closing.cancel()
        self._finish()
        self.connection.lose(f"the connection is lost: {error}" if error else "the connection is closed")
        self._on_lost(self)

    def pause_writing(self) -> None:
        """The peer reads too slowly."""
        self.connection.set_writable(False)

    def resume_writing(self) -> None:
        """The peer has read."""
        self._count_unread(0)
        self.connection.set_writable(True)

    def _count_unread(self, size: int) -> None:
        """What the socket's buffer keeps, for a peer that does not read, is kept for the connection."""
        change, self._unread_by_peer = size - self._unread_by_peer, size
        self.connection.hold(change)

    def _want_turn(self) -> None:
        self._loop.call_soon(self.connection.turns.go_on)

    def _schedule(self) -> None:
        self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Writes all that there is."""
        connection, transport = self.connection, self.transport
        if transport is None or not connection.output_size:
            return
        parts = connection.take_parts()
        if transport.is_closing() or self._has_ended:
            return
        if len(parts) == 1:
            transport.write(parts[0])
        else:
            transport.writelines(parts)
        if connection.closed is not None:
            self.end(LAST_WORDS_SECONDS)
        elif not connection.is_writable:
            self._count_unread(transport.get_write_buffer_size())
            if self._unread_by_peer > limits.CONTROL_OUTPUT_BYTES_MAX:
                self.abort("the peer does not read what it is answered", "unread_output")

    def close(self) -> None:
        """Closes once what is written has been taken, or after a while."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self._closing is None:
            self._closing = self._loop.call_later(limits.CLOSE_SECONDS_MAX, transport.abort)
        self.flush()
        transport.close()

    def end(self, patience: float = limits.CLOSE_SECONDS_MAX) -> None:
        """Says that nothing more follows, and reads on until the peer says so, too: what is on its way to a socket that is
        closed would destroy our last words (a TCP reset does that). Over TLS: closes."""
        transport = self.transport
        if transport is None or self._closing is not None:
            return
        if not transport.can_write_eof():
            self.close()
            return
        self._closing = self._loop.call_later(patience, transport.abort)
        self.flush()
        self._has_ended = True
        if not transport.is_closing():
            with contextlib.suppress(OSError):  # (The peer is gone, which we are about to be told.)
                transport.write_eof()

    def abort(self, why: str, limit: str = "") -> None:
        """Closes at once; `limit`: of `limits.COUNTED`, where the peer passed one."""
        self.connection.lose(why)
        if self.transport is not None:
            self.transport.abort()

    # ---- time --------------------------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """What no event brings: peers that never finish what they began. Called about once a second."""
        connection = self.connection
        if not connection.is_settled:
            if now - self.made_at > limits.HANDSHAKE_SECONDS_MAX:
                self.abort("the handshake takes too long", "handshake_time")
        elif connection.unfinished_for(now) > limits.FRAME_SECONDS_MAX:
            self.abort("a frame takes too long", "frame_time")

    def keep_alive(self, now: float, interval: float, timeout: float) -> float:
        """Pings a silent peer, and gives a dead one up; answers when to look again, in seconds."""
        connection = self.connection
        if self._pinged_at is not None:
            if connection.received_at >= self._pinged_at:
                self._pinged_at, self._is_last_look = None, False
            elif now - self._pinged_at >= timeout:
                if self._is_last_look:
                    self.abort("keepalive watchdog timeout: the peer did not answer a ping in time")
                    return interval
                self._is_last_look = True  # It may be us who were busy: what has come meanwhile is read first.
                return min(timeout, LAST_LOOK_SECONDS)
            else:
                return self._pinged_at + timeout - now
        silent = now - max(connection.received_at, self.made_at)
        if silent >= interval:
            self._pinged_at = now
            connection.ping(KEEPALIVE_PAYLOAD)
            return timeout
        return interval - silent
