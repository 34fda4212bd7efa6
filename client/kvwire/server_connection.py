"""The server's role: the peer's preface, streams that the peer opens, pings that come too often, going away."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kvwire import frames
from kvwire.connection import Connection
from kvwire.frames import PREFACE, ProtocolError
from kvwire.header_block import Field, HeadersTooLarge
from kvwire.heads import RequestHead
from kvwire.memory import Memory

if TYPE_CHECKING:
    from kvwire.server_call import ServerCall


class ServerConnection(Connection["ServerCall"]):
    """One connection of a server."""

    def __init__(
        self,
        memory: Memory,
        metadata_size_max: int,
        streams_max: int,
        ping_interval_s_min: float,
        accept: Callable[[ServerConnection, int], ServerCall],
        ping_strikes_max: int = 2,
    ) -> None:
        """`accept(connection, stream id)` makes the stream of a call. A ping may come every `ping_interval_s_min` seconds while
        nothing else is answered; more than `ping_strikes_max` (0: any number) that come earlier end the connection."""
        self._preface = PREFACE
        self._streams_max, self._accept = streams_max, accept
        self._ping_interval, self._pinged_at = ping_interval_s_min, float("-inf")
        self._ping_strikes, self._ping_strikes_max = 0, ping_strikes_max
        self.on_drained: Callable[[], None] = lambda: None
        self.on_limit: Callable[[str], None] = lambda limit: None
        """Told which of `limits.COUNTED` the peer ran into."""
        super().__init__(memory, metadata_size_max, ((frames.MAX_CONCURRENT_STREAMS, streams_max),))

    def receive(self, data: bytes, now: float) -> None:
        """Takes what came from the peer; see `Connection.receive`."""
        if self._preface:
            awaited = self._preface
            part = data[: len(awaited)]
            if not awaited.startswith(part):
                self.fail(
                    frames.PROTOCOL_ERROR, "this is a gRPC server: it speaks HTTP/2, with prior knowledge or by TLS's ALPN"
                )
                return
            self._preface, data = awaited[len(part) :], data[len(part) :]
        super().receive(data, now)

    def _read_fields(self, fields: list[Field], begun: RequestHead | None) -> RequestHead:
        return RequestHead(fields, begun)

    def _is_idle(self, stream_id: int) -> bool:
        return stream_id > self.last_stream or not stream_id & 1

    def _on_headers(self, stream_id: int, made: RequestHead, ended: bool) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            if not ended or stream.remote_ended:
                self.refuse(stream_id, frames.PROTOCOL_ERROR, "headers within a request")
            else:
                stream.receive(b"", 0, True)  # Trailers of a request say nothing in gRPC.
        elif self._opens(stream_id):
            if made.malformed:
                self.refuse(stream_id, frames.PROTOCOL_ERROR, made.malformed)
            else:
                stream = self.streams[stream_id] = self._accept(self, stream_id)
                stream.on_request(made, ended)

    def _on_headers_too_large(self, stream_id: int, error: HeadersTooLarge, ended: bool) -> None:
        self.on_limit("metadata")
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.refuse(stream_id, frames.ENHANCE_YOUR_CALM, str(error))
        elif self._opens(stream_id):
            stream = self.streams[stream_id] = self._accept(self, stream_id)
            stream.on_request_too_large(error, ended)

    def _opens(self, stream_id: int) -> bool:
        """Whether a stream begins here. Raises `ProtocolError` for ids that no client may use."""
        if not stream_id & 1:
            raise ProtocolError(frames.PROTOCOL_ERROR, f"a client's stream must not have the id {stream_id}")
        if stream_id <= self.last_stream:
            if not self.frequency.on_late():
                raise ProtocolError(frames.STREAM_CLOSED, f"headers on stream {stream_id}, which is closed")
            return False
        self.last_stream = stream_id
        if self.goaway_sent is not None:
            return False  # The client learns that it was not looked at.
        if len(self.streams) >= self._streams_max:
            self.on_limit("streams")
            self.refuse(stream_id, frames.REFUSED_STREAM, "too many streams")
            return False
        return True

    def _on_pinged(self) -> None:
        if self.has_sent:  # Who gets data may measure the connection by pings.
            self.has_sent, self._ping_strikes = False, 0
        elif self.received_at - self._pinged_at < self._ping_interval:
            self._ping_strikes += 1
            if 0 < self._ping_strikes_max < self._ping_strikes:
                raise ProtocolError(frames.ENHANCE_YOUR_CALM, "too_many_pings", "pings")
        self._pinged_at = self.received_at

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        self.frequency.on_control()  # A client that goes away closes its connection itself.
        frames.check_goaway(stream_id, payload)

    def fail(self, code: int, message: str, limit: str = "") -> None:
        """The client is told why, and the connection is over."""
        if limit and self.closed is None:
            self.on_limit(limit)
        super().fail(code, message, limit)

    def go_away(self) -> None:
        """Tells the client that the calls which we have looked at were the last ones; `on_drained` follows when they are over.
        (The others it may safely make elsewhere, RFC 9113 §6.8.)"""
        if self.closed is None and self.goaway_sent is None:
            self.goaway_sent = self.last_stream
            self.put(frames.goaway(self.last_stream, frames.NO_ERROR))
            if not self.streams:
                self.on_drained()

    def forget(self, stream: Any) -> None:
        """A stream is closed."""
        super().forget(stream)
        if self.goaway_sent is not None and not self.streams:
            self.on_drained()
