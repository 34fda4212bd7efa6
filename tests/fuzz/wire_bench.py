"""kvwire's server and client on sockets of memory, fed with whatever bytes; and the demands on them meanwhile and afterwards.

- Nothing is raised into the event loop, by no bytes.
- A connection goes on, or `closed` says why not; then it holds nothing and has no streams.
- What is held, unread and granted stays within limits.py; what is sent consists of frames, within the peer's windows.
- When the peer has hung up, every call ends, every handler has ended, and nothing is held.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from typing import Any

import grpc.aio

import kvwire
from kvwire import frames, limits
from kvwire.client_connection import ClientConnection
from kvwire.connection import Connection
from kvwire.link import Link
from tests.unit.kvwire.cores import FrameReader
from tests.wire.pairs import SERVICE, Context, service, stream_stream, stream_unary, unary_stream, unary_unary

STREAMS_MAX = 20
MESSAGE_BYTES_MAX = 300_000
"""Above the stream window, so that room is made for large ones."""
MEMORY_BYTES_MAX = 2_000_000
OPTIONS = [("grpc.max_concurrent_streams", STREAMS_MAX), ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]
WORK_PER_TURN = 8
TURNS = 12
"""Of the event loop, after each piece of bytes."""
TURNS_MAX = 20_000
ENDED_WITHIN_S = 1.0
ALLOWED = (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError, asyncio.CancelledError)
"""How calls may end for their callers."""


class Peer(asyncio.Transport):
    """A socket of memory: what the link writes is checked, and given up; what it reads comes from `feed`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, link: Link) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self._loop, self.link = loop, link
        self.reads = True
        self._has_ended = self._is_paused = self._is_closing = self._is_lost = self._writing_is_paused = False
        self._high = 65_536
        self._buffered = 0
        self._waiting = b""
        self.sent = Sent(frames.PREFACE if isinstance(link.connection, ClientConnection) else b"")
        link.connection_made(self)

    # What the link uses.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self._is_lost, "bytes are written to a socket that is closed"
        assert not self._has_ended, "bytes are written behind their end"
        self.sent.check(bytes(data))
        if not self.reads:
            self._buffered += len(data)
            if self._buffered > self._high and not self._writing_is_paused:
                self._writing_is_paused = True
                self.link.pause_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._has_ended = True

    def get_write_buffer_size(self) -> int:
        return self._buffered

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high or 0

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        self._loop.call_soon(self._deliver)

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            if not self._buffered:
                self._loop.call_soon(self.hang_up)

    def abort(self) -> None:
        self._is_closing = True
        self._loop.call_soon(self.hang_up)

    # What the test uses.

    def feed(self, data: bytes) -> None:
        """Bytes arrive, as soon as the link reads."""
        self._waiting += data
        self._deliver()

    def _deliver(self) -> None:
        if self._waiting and not (self._is_paused or self._is_closing):
            data, self._waiting = self._waiting, b""
            self.sent.on_received(data)
            self.link.data_received(data)

    def set_reads(self, reads: bool) -> None:
        """The peer reads what comes, or it does not."""
        self.reads = reads
        if reads:
            self._buffered = 0
            if self._is_closing:
                self._loop.call_soon(self.hang_up)
            elif self._writing_is_paused:
                self._writing_is_paused = False
                self.link.resume_writing()

    def hang_up(self) -> None:
        """The connection is gone."""
        if not self._is_lost:
            self._is_lost = self._is_closing = True
            self.link.connection_lost(None)


class Sent:
    """What a side sends: whole frames, and no more data than the most that its peer can have permitted.

    What the peer sent may be nonsense, of which the side reads as much as it likes; every WINDOW_UPDATE and SETTINGS counts.
    """

    def __init__(self, preface: bytes) -> None:
        self._frames = FrameReader(preface)
        self._received = FrameReader(b"" if preface else frames.PREFACE)
        self._credit = self._initial = frames.WINDOW_DEFAULT
        self._updates: dict[int, int] = {}
        self._data: dict[int, int] = {}
        self.goaway: int | None = None

    def on_received(self, data: bytes) -> None:
        """The peer's bytes."""
        for kind, flags, number, payload in self._received.feed(data):
            if kind == frames.WINDOW_UPDATE and len(payload) == 4:
                stream, increment = number & frames.STREAM_ID_MAX, int.from_bytes(payload, "big") & frames.WINDOW_MAX
                self._updates[stream] = self._updates.get(stream, 0) + increment
            elif kind == frames.SETTINGS and not flags & frames.ACK and not len(payload) % 6:
                sizes = [value for key, value in frames.read_settings(payload) if key == frames.INITIAL_WINDOW_SIZE]
                self._initial = max([self._initial, *sizes])

    def check(self, data: bytes) -> None:
        """The side's bytes."""
        for kind, _, stream, payload in self._frames.feed(data):
            assert self.goaway in (None, frames.NO_ERROR), "a frame behind the GOAWAY that ended the connection"
            assert kind <= frames.CONTINUATION, f"a frame of kind {kind}"
            if kind == frames.GOAWAY:
                self.goaway = int.from_bytes(payload[4:8], "big")
            elif kind == frames.WINDOW_UPDATE:
                assert 0 < int.from_bytes(payload, "big") <= frames.WINDOW_MAX
            elif kind == frames.DATA:
                for key, first in ((0, frames.WINDOW_DEFAULT), (stream, self._initial)):
                    self._data[key] = self._data.get(key, 0) + len(payload)
                    assert self._data[key] <= first + self._updates.get(key, 0), f"more data than the window of {key}"


def check(connection: Connection[Any], streams_max: int = STREAMS_MAX) -> None:
    """The invariants of a connection, between two turns."""
    if connection.closed is not None:
        assert connection.held == 0, "a closed connection holds something"
        assert not connection.streams, "a closed connection has streams"
        assert not connection.has_more
        return
    assert connection.held >= sum(stream.held for stream in connection.streams.values()) >= 0
    assert len(connection.streams) <= streams_max
    granted = [stream.granted for stream in connection.streams.values()]
    assert sum(granted) == connection.room._granted
    assert sum(granted) <= limits.LARGE_MESSAGES_SIZE_BYTES_MAX
    assert len(connection._tail) <= limits.FRAME_SIZE_BYTES_MAX + frames.HEADER_SIZE or connection.has_more
    for stream_id, stream in connection.streams.items():
        partial = 0 if stream._partial is None else stream._partial.size
        assert stream.id == stream_id
        assert not stream.is_closed
        assert stream.receive_window >= 0
        assert stream.unread + partial <= limits.STREAM_WINDOW_BYTES + MESSAGE_BYTES_MAX + 5
        assert stream.send_window <= frames.WINDOW_MAX


async def turns(count: int = TURNS) -> None:
    """Some turns of the event loop."""
    for _ in range(count):
        await asyncio.sleep(0)


async def looked_at(connection: Connection[Any]) -> None:
    """Turns of the event loop until all that came was looked at, and some more."""
    for _ in range(TURNS_MAX):
        if not connection.has_more:
            break
        await asyncio.sleep(0)
    assert not connection.has_more, "bytes that nobody looks at"
    await turns()


class Methods:
    """A method for each state that a call can be in."""

    async def echo(self, request: bytes, context: Context) -> bytes:
        return request

    async def wait(self, request: bytes, context: Context) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def fail(self, request: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.ABORTED, "as asked: \u00e4", (("a-bin", b"\x00"),))
        raise AssertionError

    async def big(self, request: bytes, context: Context) -> bytes:
        return bytes(200_000)

    async def many(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        for size in (0, 1, 20_000, 70_000):
            yield bytes(size)

    async def count(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        return b"%d" % sum([len(request) async for request in requests])

    async def chat(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        await context.send_initial_metadata((("begun", "yes"),))
        async for request in requests:
            yield request

    async def deaf(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        yield b"here"
        await asyncio.Event().wait()


NAMES = {
    "Echo": unary_unary,
    "Wait": unary_unary,
    "Fail": unary_unary,
    "Big": unary_unary,
    "Many": unary_stream,
    "Count": stream_unary,
    "Chat": stream_stream,
    "Deaf": stream_stream,
}


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose connections are `Peer`s, and which remembers what was raised into it."""

    def __init__(self) -> None:
        super().__init__()
        self.peers: list[Peer] = []
        self.raised: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.raised.append(context))

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:  # type: ignore[override]
        """No socket."""
        peer = Peer(self, factory())
        self.peers.append(peer)
        return peer, peer.link


def run(example: Coroutine[Any, Any, None]) -> None:
    """Plays an example on a loop of its own; what is raised into the loop fails it. (Short turns, so that there are some.)"""
    loop = Loop()
    work, limits.WORK_PER_TURN_MAX = limits.WORK_PER_TURN_MAX, WORK_PER_TURN
    try:
        loop.run_until_complete(example)
        left = asyncio.all_tasks(loop)
        assert not left, f"tasks that nobody ended: {left}"
        assert not loop.raised, loop.raised
    finally:
        limits.WORK_PER_TURN_MAX = work
        for task in asyncio.all_tasks(loop):  # (After a failure.)
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


Script = Iterable[tuple[bytes, bool]]
"""Pieces of bytes that arrive, and whether the peer reads from then on."""


async def serve(script: Script, is_sound: bool = False) -> None:
    """A kvwire server gets these bytes from a client; sound ones must not make it close the connection."""
    loop: Any = asyncio.get_running_loop()
    server = kvwire.server(options=OPTIONS)
    methods = Methods()
    handlers = {name: kind(getattr(methods, name.lower())) for name, kind in NAMES.items()}
    server.add_generic_rpc_handlers((service(**handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)
    server._memory.limit = MEMORY_BYTES_MAX
    await server.start()
    peer = Peer(loop, server._connect())
    connection = peer.link.connection
    for data, reads in script:
        peer.set_reads(reads)
        peer.feed(data)
        check(connection)
        await looked_at(connection)
        check(connection)
        assert server._memory.held == connection.held <= MEMORY_BYTES_MAX
        assert server.in_flight <= STREAMS_MAX
        if peer.is_closing():
            break
    assert not is_sound or connection.broken is None, connection.broken
    peer.hang_up()
    check(connection)
    assert (server.in_flight, server._memory.held, len(server._links)) == (0, 0, 0)
    await _ended()
    await server.stop(None)


async def _ended() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        await turns(3)
        _, late = await asyncio.wait(tasks, timeout=ENDED_WITHIN_S)
        assert not late, f"handlers or calls that never end: {late}"


async def ask(script: Script, is_sound: bool = False) -> None:
    """A kvwire client with calls of each kind gets these bytes from a server; sound ones must not make it hang up."""
    loop: Any = asyncio.get_running_loop()
    channel = kvwire.insecure_channel("127.0.0.1:1", options=OPTIONS)
    at_the_end = asyncio.Event()
    asking = [asyncio.ensure_future(_outcome(call)) for call in _calls(channel, at_the_end)]
    await turns()
    peer: Peer = loop.peers[0]
    connection = peer.link.connection
    for data, reads in itertools.chain([(frames.settings(()), True)], script):  # Calls begin when the server has greeted.
        peer.set_reads(reads)
        peer.feed(data)
        check(connection)
        await looked_at(connection)
        check(connection)
        if peer.is_closing():
            break
    assert not is_sound or connection.broken is None, connection.broken
    peer.hang_up()
    check(connection)
    await turns()
    at_the_end.set()
    await channel.close()
    for other in loop.peers:
        other.hang_up()
        check(other.link.connection)
    await turns(50)  # There is no thread and no timer that they could wait for.
    late = [task for task in asking if not task.done()]
    assert not late, f"calls that never end: {late}"
    for outcome in asking:
        outcome.result()
    await _ended()


def _calls(channel: Any, at_the_end: asyncio.Event) -> Iterator[Coroutine[Any, Any, Any]]:
    async def requests() -> AsyncIterator[bytes]:
        for size in (0, 10, 100_000):
            yield bytes(size)

    async def read_by_hand(call: Any) -> None:
        await call.write(b"first")
        while await call.read() is not grpc.aio.EOF:
            await call.write(bytes(1_000))
        await call.done_writing()

    async def iterated(call: Any) -> None:
        async for _ in call:
            pass

    async def awaited(call: Any) -> None:
        await call

    async def stay_unread(call: Any) -> None:
        await call.initial_metadata()
        await at_the_end.wait()
        call.cancel()

    prefix = f"/{SERVICE}/"
    yield awaited(channel.unary_unary(prefix + "Echo")(b"request"))
    yield iterated(channel.unary_stream(prefix + "Many")(b"request"))
    yield awaited(channel.stream_unary(prefix + "Count")(requests()))
    yield read_by_hand(channel.stream_stream(prefix + "Chat")())
    yield awaited(channel.unary_unary(prefix + "Big")(bytes(70_000), compression=grpc.Compression.Gzip))
    yield stay_unread(channel.unary_stream(prefix + "Many")(b""))
    for _ in range(4):
        yield awaited(channel.unary_unary(prefix + "Echo")(b"more"))


async def _outcome(call: Coroutine[Any, Any, Any]) -> None:
    try:
        await call
    except ALLOWED as error:
        is_whole = not isinstance(error, grpc.aio.AioRpcError) or (
            isinstance(error.code(), grpc.StatusCode) and isinstance(error.details(), str)
        )
        if not is_whole:
            raise AssertionError(f"an error without a code or a text: {error!r}") from error
