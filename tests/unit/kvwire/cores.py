"""Both sans-I/O cores back to back in memory, with an account of the windows that is kept by somebody else than them.

Nothing here knows how the cores count: `Flow` reads the frames that a side sends and the WINDOW_UPDATE and SETTINGS that were
delivered to it before, and says whether it may have sent them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from kvwire import frames
from kvwire.client_connection import ClientConnection
from kvwire.client_stream import ClientStream, Status
from kvwire.connection import Connection
from kvwire.header_block import HeadersTooLarge, encode
from kvwire.heads import RequestHead, ResponseHead
from kvwire.inbox import Inbox
from kvwire.memory import Memory
from kvwire.server_connection import ServerConnection
from kvwire.stream import MessageRefused, Stream

MEMORY_BYTES = 1 << 30
METADATA_BYTES = 16 * 1024
PING_INTERVAL_S = 300.0

REQUEST = b"".join(
    encode(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/wire.test.Service/Method"),
        (b"content-type", b"application/grpc"),
    )
)
RESPONSE = encode(b":status", b"200") + encode(b"content-type", b"application/grpc")
TRAILERS = encode(b"grpc-status", b"0")


def message_of(received: tuple[int, bytes]) -> bytes:
    """A message that was not compressed."""
    compressed, message = received
    assert not compressed
    return message


def read_now(inbox: Inbox) -> bytes | None:
    """The next message of an inbox, None where there is none; never waits, but for the turns that it gives to others."""
    if inbox.is_empty:
        return None
    reading = inbox.get()
    for _ in range(2):
        try:
            reading.send(None)
        except StopIteration as result:
            return message_of(result.value)
    raise AssertionError("an inbox with messages made its reader wait")


class ServedStream(Stream):
    """A call as the server's core sees it: what came is kept until the test reads it."""

    def __init__(self, connection: ServerConnection, stream_id: int, message_size_max: int) -> None:
        super().__init__(connection, stream_id, message_size_max)
        self.inbox = Inbox(self)
        self.head: RequestHead | None = None
        self.ended = False
        self.refused: MessageRefused | None = None
        self.reset: tuple[int | None, str] | None = None

    def on_request(self, head: RequestHead, ended: bool) -> None:
        """The call begins."""
        self.head, self.remote_ended, self.ended = head, ended, ended

    def on_request_too_large(self, error: HeadersTooLarge, ended: bool) -> None:
        """Refused at once, as a server does."""
        self.remote_ended = ended
        self.answer_end(b"8")

    def on_message(self, compressed: int, message: bytes) -> None:
        """Kept until it is read."""
        if not self.local_ended:
            self.inbox.put(compressed, message)

    def on_end(self) -> None:
        """The caller has sent everything."""
        assert not self.ended, "a stream ended twice"
        self.ended = True

    def on_refused(self, refused: MessageRefused) -> None:
        """Ends the call, as a server does."""
        self.refused = refused
        self.answer_end(b"8")

    def on_reset(self, code: int | None, why: str) -> None:
        """The caller has gone."""
        assert self.reset is None, "a stream was reset twice"
        self.reset = (code, why)
        self.close()

    def on_local_end(self) -> None:
        """Nobody needs the rest of the request."""
        if not self.remote_ended:
            self.connection.put(frames.rst_stream(self.id, frames.NO_ERROR))
        self.close()

    def answer_head(self) -> None:
        """Sends the initial metadata."""
        self.connection.put(self.connection.header_frames(self.id, RESPONSE, 0))

    def answer_end(self, status: bytes = b"0") -> None:
        """Ends the call with a status."""
        if not self.is_closed and not self.local_ended:
            block = encode(b"grpc-status", status)
            self.end(self.connection.header_frames(self.id, block, frames.END_STREAM))

    def close(self) -> None:
        """Forgets what was not read."""
        was_closed = self.is_closed
        super().close()
        if not was_closed:
            self.inbox.clear()


class Caller:
    """What a client's stream tells about its call."""

    is_cancelled_when_forgotten = False

    def __init__(self) -> None:
        self.stream: ClientStream | None = None
        self.inbox: Inbox | None = None
        self.initial: ResponseHead | None = None
        self.status: Status | None = None
        self.unprocessed = False

    def begin(self, connection: ClientConnection, message_size_max: int = 4 << 20) -> ClientStream:
        """Opens the stream, and sends the headers."""
        stream = self.stream = ClientStream(connection, self, message_size_max)  # type: ignore[arg-type]
        self.inbox = Inbox(stream)
        connection.put(connection.header_frames(stream.id, REQUEST, 0))
        return stream

    def on_initial(self, head: ResponseHead) -> None:
        """The initial metadata are here."""
        assert self.initial is None
        self.initial = head

    def on_message(self, compressed: int, message: bytes) -> None:
        """A response."""
        assert self.status is None, "a message after the end"
        assert self.inbox is not None
        self.inbox.put(compressed, message)

    def on_status(self, status: Status) -> None:
        """The end."""
        assert self.status is None, "a call ended twice"
        self.status = status

    def on_writable(self) -> None:
        """What was written has left."""

    def on_unprocessed(self, stream: ClientStream, status: Status) -> None:
        """No server has looked at the call."""
        assert not self.unprocessed
        self.unprocessed = True


def server_core(
    message_size_max: int = 4 << 20,
    memory_bytes: int = MEMORY_BYTES,
    streams_max: int = 1024,
    accept: Callable[[ServerConnection, int], Any] | None = None,
) -> tuple[ServerConnection, Memory]:
    """A server's connection of its own, and the sum that it is counted in."""
    holders: list[Connection[Any]] = []
    memory = Memory(memory_bytes, holders)
    made = accept or (lambda connection, stream_id: ServedStream(connection, stream_id, message_size_max))
    connection = ServerConnection(memory, METADATA_BYTES, streams_max, PING_INTERVAL_S, made)
    holders.append(connection)
    return connection, memory


def client_core(on_change: Callable[[], None] = lambda: None) -> ClientConnection:
    """A client's connection."""
    return ClientConnection(METADATA_BYTES, on_change)


def feed(core: Connection[Any], data: bytes, now: float) -> None:
    """Bytes arrive, and the core goes on with them until all are looked at."""
    core.receive(data, now)
    while core.has_more:
        core.resume(now)


class FrameReader:
    """Cuts bytes into frames: (kind, flags, stream, payload)."""

    def __init__(self, preface: bytes = b"") -> None:
        self._preface, self._rest = len(preface), b""

    def feed(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """The frames that end in these bytes."""
        skipped = min(self._preface, len(data))
        self._preface -= skipped
        self._rest += data[skipped:]
        while len(self._rest) >= 9:
            size = int.from_bytes(self._rest[:3], "big")
            if len(self._rest) < 9 + size:
                return
            kind, flags, stream = self._rest[3], self._rest[4], int.from_bytes(self._rest[5:9], "big")
            payload, self._rest = self._rest[9 : 9 + size], self._rest[9 + size :]
            yield kind, flags, stream, payload


class Flow:
    """What one side may send: its peer's windows as they were delivered to it, less what it sent."""

    def __init__(self, preface: bytes, peer_preface: bytes) -> None:
        self._sent, self._received = FrameReader(preface), FrameReader(peer_preface)
        self.connection = self.initial = frames.WINDOW_DEFAULT
        self.frame_size = 16_384
        self.streams: dict[int, int] = {}

    def on_received(self, data: bytes) -> None:
        """Bytes were delivered to the side."""
        for kind, flags, stream, payload in self._received.feed(data):
            if kind == frames.WINDOW_UPDATE:
                increment = int.from_bytes(payload, "big")
                assert 0 < increment <= frames.WINDOW_MAX
                if stream:
                    self.streams[stream] = self.streams.get(stream, self.initial) + increment
                else:
                    self.connection += increment
            elif kind == frames.SETTINGS and not flags & frames.ACK:
                for key, value in frames.read_settings(payload):
                    if key == frames.INITIAL_WINDOW_SIZE:
                        self.streams = {known: window + value - self.initial for known, window in self.streams.items()}
                        self.initial = value
                    elif key == frames.MAX_FRAME_SIZE:
                        self.frame_size = value

    def on_sent(self, data: bytes) -> None:
        """Bytes left the side."""
        for kind, _, stream, payload in self._sent.feed(data):
            assert len(payload) <= self.frame_size, "a frame larger than the peer permits"
            if kind == frames.DATA:
                self.connection -= len(payload)
                self.streams[stream] = self.streams.get(stream, self.initial) - len(payload)
                assert self.connection >= 0, "more data than the connection's window"
                assert not payload or self.streams[stream] >= 0, f"more data than the window of stream {stream}"


class Pair:
    """A client's and a server's core, and the bytes between them."""

    def __init__(self, message_size_max: int = 4 << 20) -> None:
        self.server, self.memory = server_core(message_size_max)
        self.client = client_core()
        self.now = 0.0
        self._underway = {"server": bytearray(), "client": bytearray()}
        self._flows = {"server": Flow(frames.PREFACE, b""), "client": Flow(b"", frames.PREFACE)}
        # Named by who receives: the bytes to the server are sent by the client.
        self._cores: dict[str, Connection[Any]] = {"server": self.server, "client": self.client}

    def collect(self) -> None:
        """What both sides have put is under way, and within the windows."""
        for receiver, sender in (("server", self.client), ("client", self.server)):
            data = sender.take()
            self._flows[receiver].on_sent(data)
            self._underway[receiver] += data

    def deliver(self, receiver: str, size: int) -> None:
        """Up to so many bytes arrive."""
        self.collect()
        underway = self._underway[receiver]
        data = bytes(underway[:size])
        del underway[:size]
        other = "client" if receiver == "server" else "server"
        self._flows[other].on_received(data)
        self.now += 0.25
        if data:
            feed(self._cores[receiver], data, self.now)
        self.collect()

    def underway(self, receiver: str) -> int:
        """Bytes that have not arrived yet."""
        self.collect()
        return len(self._underway[receiver])

    def settle(self) -> None:
        """Everything arrives."""
        while self.underway("server") or self.underway("client"):
            self.deliver("server", 1 << 20)
            self.deliver("client", 1 << 20)
