"""RST_STREAM in every state of a call, at the server: the call ends, its handler too, and the connection goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.wire import frames as h2
from tests.wire import raw
from tests.wire.frames import data, message, request, response, rst, trailers, window_update
from tests.wire.pairs import (
    Context,
    Wire,
    path,
    service,
    soon,
    stream_stream,
    stream_unary,
    unary_stream,
    unary_unary,
)
from tests.wire.serving import served

ECHO = path("Echo")
MIB = 1 << 20


class Methods:
    """Handlers that say when they began, and how they ended."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.ended: asyncio.Queue[str] = asyncio.Queue()

    def handler(self) -> grpc.GenericRpcHandler:
        return service(
            Echo=unary_unary(self.echo),
            Wait=unary_unary(self.wait),
            Pour=unary_stream(self.pour),
            Count=stream_unary(self.count),
            Talk=stream_stream(self.talk),
            Deaf=stream_unary(self.deaf),
        )

    async def echo(self, request: bytes, context: Context) -> bytes:
        self.begun.put_nowait("Echo")
        return request

    async def wait(self, request: bytes, context: Context) -> bytes:
        """Waits for ever."""
        self.begun.put_nowait("Wait")
        try:
            await asyncio.Event().wait()
            return b""
        finally:
            self.ended.put_nowait("Wait")

    async def pour(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Answers for ever."""
        self.begun.put_nowait("Pour")
        try:
            while True:
                yield bytes(10_000)
                await asyncio.sleep(0)
        finally:
            self.ended.put_nowait("Pour")

    async def count(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """Reads until the end."""
        self.begun.put_nowait("Count")
        try:
            return b"%d" % len([item async for item in requests])
        finally:
            self.ended.put_nowait("Count")

    async def talk(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Answers each message."""
        self.begun.put_nowait("Talk")
        try:
            async for item in requests:
                yield item
        finally:
            self.ended.put_nowait("Talk")

    async def deaf(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """Answers without reading."""
        return b"done"


async def goes_on(peer: raw.Peer, stream: int) -> None:
    """The connection serves a call as ever."""
    assert (await peer.call(stream, ECHO, b"on")).messages == [b"on"]


CODES = [h2.NO_ERROR, h2.PROTOCOL_ERROR, h2.REFUSED_STREAM, h2.CANCEL, h2.ENHANCE_YOUR_CALM, 0xFFFF]


async def test_reset_before_the_message_begins_no_handler(server_wire: Wire) -> None:
    """Also in the middle of the message's prefix or body; nobody ever hears of the call."""
    methods = Methods()
    async with served(server_wire, methods.handler()) as address, raw.connect(address) as peer:
        whole = message(b"half")
        for number, sent in enumerate([b"", whole[:3], whole[:5], whole[:-1]]):
            stream = 1 + 2 * number
            await peer.send(request(stream, ECHO), data(stream, sent) if sent else b"", rst(stream))
        await goes_on(peer, 9)
        assert methods.begun.qsize() == 1
        assert not [frame for frame in peer.seen if frame.stream in (1, 3, 5, 7) and frame.type != h2.WINDOW_UPDATE]


@pytest.mark.parametrize("code", CODES)
async def test_reset_while_the_handler_waits_cancels_it(server_wire: Wire, code: int) -> None:
    """Whatever its reason is; nothing is answered any more."""
    methods = Methods()
    async with served(server_wire, methods.handler()) as address, raw.connect(address) as peer:
        await peer.send(request(1, path("Wait")), data(1, message(), end=True))
        assert await soon(methods.begun.get()) == "Wait"
        await peer.send(rst(1, code))
        assert await soon(methods.ended.get()) == "Wait"
        await goes_on(peer, 3)
        assert not [frame for frame in peer.seen if frame.stream == 1 and frame.type in (h2.HEADERS, h2.DATA)]


@pytest.mark.parametrize("method", ["Count", "Talk"])
@pytest.mark.parametrize("sent", [0, 1, 3])
async def test_reset_while_the_request_is_read_ends_its_handler(server_wire: Wire, method: str, sent: int) -> None:
    """Between two messages of a request, and before the first one."""
    methods = Methods()
    async with served(server_wire, methods.handler()) as address, raw.connect(address) as peer:
        await peer.send(request(1, path(method)), *[data(1, message(b"m"))] * sent)
        assert await soon(methods.begun.get()) == method
        await peer.send(rst(1))
        assert await soon(methods.ended.get()) == method
        await goes_on(peer, 3)


@pytest.mark.parametrize("window", [h2.WINDOW, 100])
async def test_reset_while_the_answer_is_streamed_stops_it(server_wire: Wire, window: int) -> None:
    """Also one that waits for its window; the connection's window is there for the others."""
    methods = Methods()
    async with (
        served(server_wire, methods.handler()) as address,
        raw.connect(address, settings={h2.INITIAL_WINDOW_SIZE: window}) as peer,
    ):
        peer.refills = False
        await peer.send(request(1, path("Pour")), data(1, message(), end=True))
        await peer.take(h2.DATA, 1)
        await peer.send(rst(1), window_update(0, h2.WINDOW))
        assert await soon(methods.ended.get()) == "Pour"
        await peer.settled()
        peer.inbox.clear()
        await goes_on(peer, 3)
        assert not [frame for frame in peer.inbox if frame.stream == 1]


async def test_reset_after_the_trailers_changes_nothing(server_wire: Wire) -> None:
    """The call is over for both: whether or not the client had ended its side, and twice."""
    async with served(server_wire, Methods().handler()) as address, raw.connect(address) as peer:
        await goes_on(peer, 1)
        await peer.send(rst(1), rst(1, h2.NO_ERROR))
        await peer.send(request(3, path("Deaf")))
        assert (await peer.answer(3)).messages == [b"done"]
        await peer.send(rst(3), rst(3))
        await goes_on(peer, 5)


async def test_reset_with_the_request_in_one_segment_is_a_call_that_never_was(server_wire: Wire) -> None:
    """Rapid resets below every limit: nothing is left of them, and calls go on."""
    methods = Methods()
    async with served(server_wire, methods.handler()) as address, raw.connect(address) as peer:
        for number in range(300):
            stream = 1 + 2 * number
            await peer.send(request(stream, path("Wait")), data(stream, message(), end=True), rst(stream))
        await goes_on(peer, 1001)
        while methods.ended.qsize() < methods.begun.qsize() - 1:
            await asyncio.sleep(0.01)


class Window:
    """What a raw peer may send on its connection."""

    def __init__(self, peer: raw.Peer) -> None:
        self.peer, self.sent = peer, 0

    @property
    def left(self) -> int:
        """Octets."""
        given = sum(frame.number for frame in self.peer.seen if frame.type == h2.WINDOW_UPDATE and frame.stream == 0)
        return h2.WINDOW + given - self.sent

    async def send(self, stream: int, size: int) -> None:
        """Send so much as soon as the connection's window has room for it."""
        await self.peer.until(lambda: self.left >= size or None)
        await self.peer.send(*[data(stream, bytes(part)) for part in parts(size)])
        self.sent += size


def parts(size: int) -> list[int]:
    """The frames that so much takes."""
    return [min(h2.FRAME_SIZE, size - at) for at in range(0, size, h2.FRAME_SIZE)]


async def test_data_of_calls_that_were_answered_early_gives_its_window_back(server_wire: Wire) -> None:
    """What was on its way to 160 dead streams, ten million octets, is dropped; the connection has room for more calls."""
    async with served(server_wire, Methods().handler()) as address, raw.connect(address) as peer:
        window = Window(peer)
        for number in range(160):
            stream = 1 + 2 * number
            await peer.send(request(stream, path("Deaf")))
            assert (await peer.answer(stream)).messages == [b"done"]
            await window.send(stream, h2.WINDOW)
        assert window.sent > 10_000_000
        await peer.until(lambda: window.left >= 7 or None)
        await goes_on(peer, 1001)


async def test_data_to_a_caller_that_is_gone_gives_its_window_back(client_wire: Wire) -> None:
    """A client's cancelled streams may be sent what was on its way; the connection has room for the others' answers."""
    async with raw.listen() as listener:
        channel = client_wire.insecure_channel(listener.address)
        try:
            peer: Any = None
            window: Any = None
            for _ in range(160):
                call = channel.unary_stream(path("Method"))(b"q", timeout=25)
                code = asyncio.ensure_future(call.code())
                if peer is None:
                    peer = await listener.accept()
                    window = Window(peer)
                stream = (await listener.request(peer)).stream
                await peer.send(response(stream))
                await soon(call.initial_metadata())
                call.cancel()
                await peer.take(h2.RST_STREAM, stream)
                assert await soon(code) is grpc.StatusCode.CANCELLED
                await window.send(stream, h2.WINDOW)
            unary = asyncio.ensure_future(channel.unary_unary(path("Method"))(b"q", timeout=25))
            stream = (await listener.request(peer)).stream
            await peer.until(lambda: window.left >= 7 or None)
            await peer.send(response(stream), data(stream, message(b"on")), trailers(stream))
            assert await soon(unary) == b"on"
            assert len(listener.peers) == 1
        finally:
            await channel.close()
