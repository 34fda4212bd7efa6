"""Clients whose server says GOAWAY, hangs up, or takes only so many calls: what is tried again, what fails, what waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.wire import frames as h2
from tests.wire import raw
from tests.wire.frames import data, goaway, message, response, settings, trailers
from tests.wire.pairs import Wire, path, soon

OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE


class Calls:
    """A raw server and a client's channel to it."""

    def __init__(self, listener: raw.Listener, channel: grpc.aio.Channel) -> None:
        self.listener, self.channel = listener, channel

    def begin(self, body: bytes = b"q", **options: Any) -> asyncio.Future[grpc.StatusCode]:
        """A unary call's code, once it has one."""
        return asyncio.ensure_future(self.channel.unary_unary(path("Method"))(body, timeout=20, **options).code())

    async def arrived(self, peer: raw.Peer) -> int:
        """The stream of the next call that has arrived whole."""
        stream = (await self.listener.request(peer)).stream
        await peer.take(lambda frame: frame.stream == stream and frame.ends_stream)
        return stream


async def reply(peer: raw.Peer, stream: int) -> None:
    """Answer a call."""
    await peer.send(response(stream), data(stream, message(b"answer")), trailers(stream))


@contextlib.asynccontextmanager
async def calling(wire: Wire, announced: dict[int, int] | None = None) -> AsyncIterator[Calls]:
    """A raw server which announces these settings, and a channel."""
    async with raw.listen(announced) as listener:
        channel = wire.insecure_channel(listener.address)
        try:
            yield Calls(listener, channel)
        finally:
            await channel.close()


async def requests() -> AsyncIterator[bytes]:
    """A request of two messages."""
    yield b"one"
    yield b"two"


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
async def test_goaway_below_a_call_has_it_made_again_elsewhere(client_wire: Wire, kind: str) -> None:
    """A call that the server says it never saw is made again on a new connection, whole, and nobody notices."""
    async with calling(client_wire) as calls:
        call = getattr(calls.channel, kind)(path("Method"))(requests() if kind.startswith("stream") else b"one", timeout=20)
        code = asyncio.ensure_future(call.code())
        first = await calls.listener.accept()
        await calls.arrived(first)
        await first.send(goaway(0))
        second = await calls.listener.accept()
        stream = await calls.arrived(second)
        body = b"".join(frame.payload for frame in second.seen if frame.type == h2.DATA and frame.stream == stream)
        assert body == message(b"one") + (message(b"two") if kind.startswith("stream") else b"")
        await reply(second, stream)
        if kind.endswith("stream"):
            assert [item async for item in call] == [b"answer"]
        else:
            assert await soon(call) == b"answer"
        assert await soon(code) is OK


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
async def test_goaway_below_a_call_twice_fails_it(client_wire: Wire, kind: str) -> None:
    """Made again once, not for ever: whoever meets two servers that go away is told."""
    async with calling(client_wire) as calls:
        call = getattr(calls.channel, kind)(path("Method"))(requests() if kind.startswith("stream") else b"one", timeout=20)
        code = asyncio.ensure_future(call.code())
        for _ in range(2):
            assert not code.done()
            peer = await calls.listener.accept()
            await calls.arrived(peer)
            await peer.send(goaway(0))
        assert await soon(code) is UNAVAILABLE
        assert len(calls.listener.peers) == 2


@pytest.mark.parametrize("error", [h2.NO_ERROR, h2.INTERNAL_ERROR, h2.ENHANCE_YOUR_CALM])
async def test_goaway_above_a_call_lets_it_finish(client_wire: Wire, error: int) -> None:
    """Calls that the server has seen finish on the old connection; new ones go to a new connection."""
    async with calling(client_wire) as calls:
        old_call = calls.begin()
        old = await calls.listener.accept()
        stream = await calls.arrived(old)
        await old.send(goaway(stream, error, b"because"))
        await old.settled()
        new_call = calls.begin()
        new = await calls.listener.accept()
        await reply(new, await calls.arrived(new))
        assert await soon(new_call) is OK
        assert not old_call.done()
        await reply(old, stream)
        assert await soon(old_call) is OK
        await old.end()


async def test_goaway_between_two_calls_moves_the_later_one(client_wire: Wire) -> None:
    """The last stream's number parts those that are seen from those that are not."""
    async with calling(client_wire) as calls:
        codes = [calls.begin(), calls.begin()]
        old = await calls.listener.accept()
        first, second = await calls.arrived(old), await calls.arrived(old)
        assert first < second
        await old.send(goaway(first))
        new = await calls.listener.accept()
        await reply(new, await calls.arrived(new))
        await reply(old, first)
        assert [await soon(code) for code in codes] == [OK, OK]


async def test_goaway_in_two_steps_loses_no_call(client_wire: Wire) -> None:
    """A graceful shutdown: first GOAWAY of the highest number, then of the true last one."""
    async with calling(client_wire) as calls:
        code = calls.begin()
        old = await calls.listener.accept()
        stream = await calls.arrived(old)
        await old.send(goaway(0x7FFFFFFF))
        await old.settled()
        await old.send(goaway(stream))
        await old.settled()
        assert not code.done()
        await reply(old, stream)
        assert await soon(code) is OK


async def test_goaway_on_an_idle_connection_costs_no_call(client_wire: Wire) -> None:
    """The next call makes a connection."""
    async with calling(client_wire) as calls:
        code = calls.begin()
        old = await calls.listener.accept()
        stream = await calls.arrived(old)
        await reply(old, stream)
        assert await soon(code) is OK
        await old.send(goaway(stream))
        await old.end()
        code = calls.begin()
        new = await calls.listener.accept()
        await reply(new, await calls.arrived(new))
        assert await soon(code) is OK


async def test_goaway_then_hang_up_fails_calls_that_were_seen(client_wire: Wire) -> None:
    """What the server may have done is not done again."""
    async with calling(client_wire) as calls:
        code = calls.begin()
        peer = await calls.listener.accept()
        stream = await calls.arrived(peer)
        await peer.send(goaway(stream))
        await peer.settled()
        peer.writer.close()
        assert await soon(code) is UNAVAILABLE
        assert len(calls.listener.peers) == 1


@pytest.mark.parametrize("begun", ["nothing", "headers", "a message"])
async def test_hang_up_with_calls_in_flight_fails_them_all(client_wire: Wire, begun: str) -> None:
    """UNAVAILABLE at once, whatever had been answered; the next call makes a new connection."""
    async with calling(client_wire) as calls:
        codes = [calls.begin() for _ in range(5)]
        peer = await calls.listener.accept()
        streams = [await calls.arrived(peer) for _ in codes]
        for stream in streams:
            if begun != "nothing":
                await peer.send(response(stream))
            if begun == "a message":
                await peer.send(data(stream, message(b"answer")))
        await peer.settled()
        peer.writer.write_eof()
        assert {await soon(code) for code in codes} == {UNAVAILABLE}
        await peer.end()
        code = calls.begin(wait_for_ready=True)
        peer = await calls.listener.accept()
        await reply(peer, await calls.arrived(peer))
        assert await soon(code) is OK


async def test_hang_up_on_an_idle_connection_costs_no_call(client_wire: Wire) -> None:
    """A server that closes idle connections is nothing to tell callers of."""
    async with calling(client_wire) as calls:
        for _ in range(3):
            code = calls.begin()
            peer = await calls.listener.accept()
            await reply(peer, await calls.arrived(peer))
            assert await soon(code) is OK
            await peer.settled()
            peer.writer.write_eof()
            await peer.end()  # only now has the client seen it


async def test_calls_above_the_servers_limit_wait_their_turn(client_wire: Wire) -> None:
    """MAX_CONCURRENT_STREAMS of one: one at a time, on one connection; a higher limit is used at once."""
    async with calling(client_wire, {h2.MAX_CONCURRENT_STREAMS: 1}) as calls:
        warm_up = calls.begin()
        peer = await calls.listener.accept()
        await reply(peer, await calls.arrived(peer))
        assert await soon(warm_up) is OK
        codes = [calls.begin() for _ in range(5)]
        for _ in range(2):
            stream = await calls.arrived(peer)
            await peer.settled()
            assert not [frame for frame in peer.inbox if frame.type == h2.HEADERS]
            await reply(peer, stream)
        last = await calls.arrived(peer)
        await peer.send(settings({h2.MAX_CONCURRENT_STREAMS: 3}))
        streams = [last, await calls.arrived(peer), await calls.arrived(peer)]
        for stream in streams:
            await reply(peer, stream)
        assert [await soon(code) for code in codes] == [OK] * 5
        assert len(calls.listener.peers) == 1


async def test_call_that_waits_for_its_turn_meets_its_deadline(client_wire: Wire) -> None:
    """It may be given up, by its deadline or its caller, before it was sent; the server hears nothing of it."""
    async with calling(client_wire, {h2.MAX_CONCURRENT_STREAMS: 1}) as calls:
        first = calls.begin()
        peer = await calls.listener.accept()
        stream = await calls.arrived(peer)
        method = calls.channel.unary_unary(path("Method"))
        late, cancelled = method(b"q", timeout=0.3), method(b"q", timeout=20)
        assert await soon(late.code()) is grpc.StatusCode.DEADLINE_EXCEEDED
        cancelled.cancel()
        assert await soon(cancelled.code()) is grpc.StatusCode.CANCELLED
        await reply(peer, stream)
        assert await soon(first) is OK
        await peer.settled()
        assert len([frame for frame in peer.seen if frame.type == h2.HEADERS]) == 1


@pytest.mark.parametrize("way", ["cancel", "deadline"])
async def test_call_given_up_resets_its_stream(client_wire: Wire, way: str) -> None:
    """The server is told by RST_STREAM with CANCEL; what it still sends is ignored."""
    async with calling(client_wire) as calls:
        call = calls.channel.unary_unary(path("Method"))(b"q", timeout=20 if way == "cancel" else 0.3)
        code = asyncio.ensure_future(call.code())
        peer = await calls.listener.accept()
        stream = await calls.arrived(peer)
        if way == "cancel":
            call.cancel()
        assert await soon(code) in (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert (await peer.take(h2.RST_STREAM, stream)).number == h2.CANCEL
        await reply(peer, stream)
        await peer.send(h2.window_update(stream, 100), h2.rst(stream))
        again = calls.begin()
        await reply(peer, await calls.arrived(peer))
        assert await soon(again) is OK


async def test_ping_of_a_server_is_answered_with_its_octets(client_wire: Wire) -> None:
    """Also while a call is under way; an answer to no question is ignored."""
    async with calling(client_wire) as calls:
        code = calls.begin()
        peer = await calls.listener.accept()
        stream = await calls.arrived(peer)
        await peer.send(h2.ping(b"nobodyas", ack=True), h2.ping(b"abcdefgh"))
        found = await peer.take(lambda frame: frame.type == h2.PING and frame.payload == b"abcdefgh")
        assert found.flags == h2.ACK
        await reply(peer, stream)
        assert await soon(code) is OK
