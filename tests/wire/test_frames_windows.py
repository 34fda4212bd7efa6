"""Flow control in both directions: windows that run out, that shrink below zero, that are exceeded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from tests.wire import frames as h2
from tests.wire import raw
from tests.wire.frames import INITIAL_WINDOW_SIZE, WINDOW, data, message, request, settings, window_update
from tests.wire.pairs import Context, Wire, path, service, soon, stream_stream, unary_stream, unary_unary
from tests.wire.serving import served

SIZE = 200_000
WHOLE = message(bytes(range(256)) * (SIZE // 256))


class Methods:
    """Answers of any size; a method that never reads what it is sent."""

    def __init__(self) -> None:
        self.never = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        return service(Big=unary_unary(self.big), Many=unary_stream(self.many), Deaf=stream_stream(self.deaf))

    async def big(self, request: bytes, context: Context) -> bytes:
        """One message of as many octets as asked for."""
        return (bytes(range(256)) * (int(request) // 256 + 1))[: int(request)]

    async def many(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """As many messages of 1000 octets as asked for."""
        for number in range(int(request)):
            yield bytes([number % 256]) * 1000

    async def deaf(self, requests: object, context: Context) -> AsyncIterator[bytes]:
        """Answers once and reads nothing."""
        yield b"here"
        await self.never.wait()


def received(peer: raw.Peer, stream: int) -> int:
    """Octets of DATA that came on a stream."""
    return sum(len(frame.payload) for frame in peer.seen if frame.type == h2.DATA and frame.stream == stream)


async def receive(peer: raw.Peer, octets: int, *streams: int) -> None:
    """Wait until so many octets of DATA have come on these streams, and see that no more come."""
    await peer.until(lambda: sum(received(peer, stream) for stream in streams) >= octets or None)
    await peer.settled()
    await asyncio.sleep(0.02)
    await peer.settled()
    assert sum(received(peer, stream) for stream in streams) == octets


async def ask(peer: raw.Peer, stream: int, size: int = len(WHOLE) - 5) -> None:
    """Ask for a message of a size, of which five octets more travel."""
    await peer.send(request(stream, path("Big")), data(stream, message(b"%d" % size), end=True))


async def test_stream_window_used_up_stops_its_stream_only(server_wire: Wire) -> None:
    """A server sends exactly as much as the stream's window allows; others go on; more comes as the window opens."""
    async with served(server_wire, Methods().handler()) as address, raw.connect(address) as peer:
        peer.refills = False
        await peer.send(window_update(0, 10_000_000))
        await ask(peer, 1)
        await receive(peer, WINDOW, 1)
        await ask(peer, 3, 1000)
        assert (await peer.answer(3)).status == 0
        await peer.send(window_update(1, 1))
        await receive(peer, WINDOW + 1, 1)
        await peer.send(window_update(1, SIZE))
        answer = await peer.answer(1)
        assert (answer.status, answer.data) == (0, WHOLE)


async def test_connection_window_used_up_stops_all_streams(server_wire: Wire) -> None:
    """The connection's window is shared, and opens for all; header blocks are not counted."""
    async with served(server_wire, Methods().handler()) as address, raw.connect(address) as peer:
        peer.refills = False
        await peer.send(settings({INITIAL_WINDOW_SIZE: 1_000_000}))
        await ask(peer, 1, 60_000)
        await ask(peer, 3, 60_000)
        await receive(peer, WINDOW, 1, 3)
        await peer.send(request(5, path("Nothing"), end=True))
        assert (await peer.answer(5)).status == 12
        await peer.send(window_update(0, 100_000))
        for stream in (1, 3):
            assert len((await peer.answer(stream)).data) == 60_005


async def test_initial_window_announced_smaller_counts_for_open_streams(server_wire: Wire) -> None:
    """RFC 9113, 6.9.2: a change moves every stream's window, also below zero; then as much more must be given."""
    async with served(server_wire, Methods().handler()) as address, raw.connect(address) as peer:
        peer.refills = False
        await peer.send(window_update(0, 10_000_000))
        await ask(peer, 1)
        await receive(peer, WINDOW, 1)
        await peer.send(settings({INITIAL_WINDOW_SIZE: 0}), window_update(1, WINDOW - 10))
        await receive(peer, WINDOW, 1)
        await peer.send(window_update(1, 15))
        await receive(peer, WINDOW + 5, 1)
        await peer.send(settings({INITIAL_WINDOW_SIZE: SIZE * 2}))
        assert (await peer.answer(1)).data == WHOLE


async def test_initial_window_of_zero_holds_messages_but_not_failures(server_wire: Wire) -> None:
    """A client without a window gets header blocks, and its message later."""
    async with (
        served(server_wire, Methods().handler()) as address,
        raw.connect(address, settings={INITIAL_WINDOW_SIZE: 0}) as peer,
    ):
        await ask(peer, 1, 1000)
        await peer.send(request(3, path("Nothing"), end=True))
        assert (await peer.answer(3)).status == 12
        await receive(peer, 0, 1)
        await peer.send(settings({INITIAL_WINDOW_SIZE: 400}))
        await peer.take(h2.DATA, 1)
        await peer.send(window_update(1, 1000))
        await peer.take(lambda frame: frame.stream == 1 and frame.ends_stream)
        assert received(peer, 1) == 1005


async def test_window_opened_an_octet_at_a_time_carries_all(server_wire: Wire) -> None:
    """However little is given, it is used and nothing is lost."""
    async with (
        served(server_wire, Methods().handler()) as address,
        raw.connect(address, settings={INITIAL_WINDOW_SIZE: 1}) as peer,
    ):
        peer.refills = False
        await peer.send(request(1, path("Many")), data(1, message(b"2"), end=True))
        while not any(frame.ends_stream for frame in peer.seen):
            frame = await peer.take(lambda frame: frame.stream == 1)
            if frame.type == h2.DATA and not frame.ends_stream:
                await peer.send(window_update(1, 1 if received(peer, 1) < 50 else 500))
        whole = b"".join(frame.payload for frame in peer.seen if frame.type == h2.DATA)
        assert whole == message(b"\0" * 1000) + message(b"\1" * 1000)


async def test_frame_size_announced_is_the_most_that_is_sent(server_wire: Wire) -> None:
    """16,384 octets unless the client allows more."""
    async with served(server_wire, Methods().handler()) as address, raw.connect(address) as peer:
        await ask(peer, 1)
        assert (await peer.answer(1)).data == WHOLE
        assert max(len(frame.payload) for frame in peer.seen if frame.type == h2.DATA) <= 16_384


async def test_cancelled_stream_without_a_window_frees_its_message(server_wire: Wire) -> None:
    """What waits for a window is dropped with its stream: the connection's window is left to the others."""
    async with (
        served(server_wire, Methods().handler()) as address,
        raw.connect(address, settings={INITIAL_WINDOW_SIZE: 10}) as peer,
    ):
        peer.refills = False
        await ask(peer, 1)
        await peer.take(h2.DATA, 1)
        await peer.send(h2.rst(1), settings({INITIAL_WINDOW_SIZE: 100_000}))
        await ask(peer, 3, 60_000)
        assert len((await peer.answer(3)).data) == 60_005
        assert received(peer, 1) == 10


async def flood(peer: raw.Peer, stream: int) -> int:
    """Send messages on a stream until the window is full; the octets sent."""
    sent = 0
    while True:
        await peer.settled()
        given = WINDOW
        for frame in peer.seen:
            if frame.type == h2.SETTINGS and not frame.flags & h2.ACK:
                values = {
                    int.from_bytes(frame.payload[at : at + 2], "big"): int.from_bytes(frame.payload[at + 2 : at + 6], "big")
                    for at in range(0, len(frame.payload), 6)
                }
                given = values.get(INITIAL_WINDOW_SIZE, given)
        whole = WINDOW + sum(f.number for f in peer.seen if f.type == h2.WINDOW_UPDATE and f.stream == 0)
        given += sum(frame.number for frame in peer.seen if frame.type == h2.WINDOW_UPDATE and frame.stream == stream)
        room = min(given, whole) - sent
        if room <= 0:
            return sent
        step = min(room, 16_384)
        if step < 5:
            return sent
        await peer.send(data(stream, message(bytes(step - 5))))
        sent += step


async def test_request_nobody_reads_is_held_back_by_its_window(server_wire: Wire) -> None:
    """A handler that does not read costs a bounded number of octets; more than the window allows is an error."""
    async with served(server_wire, Methods().handler()) as address, raw.connect(address) as peer:
        await peer.send(request(1, path("Deaf")))
        await peer.take(h2.DATA, 1)
        sent = await flood(peer, 1)
        assert sent <= 20_000_000
        await peer.send(data(1, bytes(16_384)))
        try:
            answer = await peer.answer(1)
            assert answer.reset == (h2.PROTOCOL_ERROR if server_wire.name == "grpcio" else h2.FLOW_CONTROL_ERROR)
        except raw.Ended:
            last = await peer.end()
            assert last is not None
            assert last.number == h2.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("window", [0, 1, 1000])
async def test_client_sends_no_more_than_the_server_allows(client_wire: Wire, window: int) -> None:
    """A server's window that runs out holds the request back; the rest comes when it opens."""
    async with raw.listen() as listener:
        channel = client_wire.insecure_channel(listener.address)
        try:
            call = channel.unary_unary(path("Method"))
            first = asyncio.ensure_future(call(b"", timeout=20))
            peer = await listener.accept()
            await reply(peer, (await listener.request(peer)).stream)
            assert await soon(first) == b"done"
            peer.refills = False
            await peer.send(settings({INITIAL_WINDOW_SIZE: window}))
            await peer.settled()
            second = asyncio.ensure_future(call(b"q" * 5000, timeout=20))
            stream = (await listener.request(peer)).stream
            await receive(peer, window, stream)
            await peer.send(settings({INITIAL_WINDOW_SIZE: 4000}))
            await receive(peer, 4000, stream)
            await peer.send(window_update(stream, 2000))
            await peer.take(lambda frame: frame.stream == stream and frame.ends_stream)
            assert received(peer, stream) == 5005
            await reply(peer, stream)
            assert await soon(second) == b"done"
        finally:
            await channel.close()


async def reply(peer: raw.Peer, stream: int) -> None:
    """Answer a call with success."""
    await peer.send(h2.response(stream), data(stream, message(b"done")), h2.trailers(stream))


async def test_client_whose_server_never_opens_the_window_meets_its_deadline(client_wire: Wire) -> None:
    """A request that cannot be sent hangs nobody: the deadline ends it, and the stream is reset."""
    async with raw.listen({INITIAL_WINDOW_SIZE: 0}) as listener:
        channel = client_wire.insecure_channel(listener.address)
        try:
            waiting = asyncio.ensure_future(channel.unary_unary(path("Method"))(b"q" * 100_000, timeout=0.5).code())
            peer = await listener.accept()
            peer.refills = False
            stream = (await listener.request(peer)).stream
            assert await soon(waiting) is grpc.StatusCode.DEADLINE_EXCEEDED
            assert (await peer.take(h2.RST_STREAM, stream)).number == h2.CANCEL
        finally:
            await channel.close()


async def test_client_that_reads_slowly_opens_its_window_slowly(client_wire: Wire) -> None:
    """A caller that does not read its stream bounds what a server can send it."""
    async with raw.listen() as listener:
        channel = client_wire.insecure_channel(listener.address)
        try:
            call = channel.unary_stream(path("Method"))(b"")
            peer = await listener.accept()
            stream = (await listener.request(peer)).stream
            await peer.send(h2.response(stream))
            sent = await flood(peer, stream)
            assert sent <= 20_000_000
            read = 0
            while read < sent:
                read += 5 + len(await soon(call.read()))
            await peer.send(data(stream, message(b"more")))
            assert await soon(call.read()) == b"more"
            call.cancel()
        finally:
            await channel.close()
