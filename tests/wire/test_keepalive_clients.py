"""Clients that ask a silent server whether it lives: the dead one is given up in time, the living one is kept."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.wire import frames as h2
from tests.wire import raw
from tests.wire.frames import data, goaway, message, response, trailers, trailers_only
from tests.wire.pairs import Wire, path, soon

UNAVAILABLE, READY = grpc.StatusCode.UNAVAILABLE, grpc.ChannelConnectivity.READY
INTERVAL_S, TIMEOUT_S = 0.1, 0.25
SLACK_S = 3.0
OPTIONS = {
    "grpc.keepalive_time_ms": 100,  # grpcio: only the first ping comes so early, the others every second
    "grpc.keepalive_timeout_ms": 250,
    "grpc.http2.ping_timeout_ms": 250,  # without which grpcio waits for a minute
    "grpc.http2.max_pings_without_data": 0,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 2000,
}
WITHOUT_CALLS = ("grpc.keepalive_permit_without_calls", 1)


def is_question(frame: h2.Frame) -> bool:
    """Whether a frame asks whether we live."""
    return frame.type == h2.PING and not frame.flags & h2.ACK


@contextlib.asynccontextmanager
async def calling(wire: Wire, *options: tuple[str, Any]) -> AsyncIterator[tuple[raw.Listener, Any]]:
    """A raw server, and a channel that asks whether it lives."""
    async with raw.listen() as listener:
        channel = wire.insecure_channel(listener.address, options=list({**OPTIONS, **dict(options)}.items()))
        try:
            yield listener, channel
        finally:
            await channel.close()


def begin(channel: Any, **options: Any) -> asyncio.Future[grpc.StatusCode]:
    """A call's code, once it has one."""
    return asyncio.ensure_future(channel.unary_unary(path("Method"))(b"q", timeout=25, **options).code())


async def reply(peer: raw.Peer, stream: int) -> None:
    """Answer a call."""
    await peer.send(response(stream), data(stream, message(b"answer")), trailers(stream))


async def be_called(listener: raw.Listener, channel: Any) -> raw.Peer:
    """A connection on which one call was answered, without a message: grpcio pings those who send it data."""
    code = begin(channel, wait_for_ready=True)
    peer = await listener.accept()
    await peer.send(trailers_only((await listener.request(peer)).stream, 5))
    assert await soon(code) is grpc.StatusCode.NOT_FOUND
    return peer


@pytest.mark.parametrize("way", ["deaf", "frozen"])
async def test_server_that_answers_no_ping_fails_calls_in_time(client_wire: Wire, way: str) -> None:
    """UNAVAILABLE after the interval and the time-out, whether or not bytes still leave; the next call goes elsewhere."""
    async with calling(client_wire) as (listener, channel):
        unary, watch = begin(channel), channel.unary_stream(path("Method"))(b"q", timeout=25)
        talk = channel.stream_stream(path("Method"))(timeout=25)
        codes = [unary, asyncio.ensure_future(watch.code()), asyncio.ensure_future(talk.code())]
        peer = await listener.accept()
        await talk.write(b"q")
        for _ in codes:
            await peer.send(response((await listener.request(peer)).stream))
        await peer.settled()
        begun = time.monotonic()
        peer.answers_pings = False
        if way == "frozen":
            await peer.stop_reading()
        assert {await soon(code) for code in codes} == {UNAVAILABLE}
        assert TIMEOUT_S <= time.monotonic() - begun <= INTERVAL_S + TIMEOUT_S + SLACK_S
        if way == "deaf":
            await peer.end()
        elif channel.get_state() is READY:  # grpcio tells the call first, and the channel an instant later
            await soon(channel.wait_for_state_change(READY))
        await be_called(listener, channel)


async def test_server_that_dies_while_idle_is_left_without_a_word(client_wire: Wire) -> None:
    """With pings permitted without calls the connection is closed before anybody needs it."""
    async with calling(client_wire, WITHOUT_CALLS) as (listener, channel):
        peer = await be_called(listener, channel)
        peer.answers_pings = False
        await peer.end()
        code = begin(channel)
        peer = await listener.accept()
        await reply(peer, (await listener.request(peer)).stream)
        assert await soon(code) is grpc.StatusCode.OK


async def test_server_that_lives_keeps_its_idle_connection(client_wire: Wire) -> None:
    """Ping after ping is answered, and the next call finds the connection warm."""
    async with calling(client_wire, WITHOUT_CALLS) as (listener, channel):
        peer = await be_called(listener, channel)
        for _ in range(2):
            await peer.take(is_question)
        code = begin(channel)
        await reply(peer, (await listener.request(peer)).stream)
        assert await soon(code) is grpc.StatusCode.OK
        assert len(listener.peers) == 1


async def test_idle_connection_is_not_pinged_unless_that_is_permitted(client_wire: Wire) -> None:
    """Without calls no pings; as soon as there is a call they come."""
    async with calling(client_wire) as (listener, channel):
        peer = await be_called(listener, channel)
        await asyncio.sleep(0.3)  # longer than the interval: that nothing comes takes time to see
        assert not any(is_question(frame) for frame in peer.seen)
        code = begin(channel)
        stream = (await listener.request(peer)).stream
        await peer.take(is_question)
        await reply(peer, stream)
        assert await soon(code) is grpc.StatusCode.OK
        assert len(listener.peers) == 1


async def test_server_that_sends_messages_is_not_asked_or_not_doubted(client_wire: Wire) -> None:
    """Whoever sends lives: a stream goes on for several time-outs."""
    async with calling(client_wire) as (listener, channel):
        call = channel.unary_stream(path("Method"))(b"q", timeout=25)
        peer = await listener.accept()
        stream = (await listener.request(peer)).stream
        # grpcio insists on an answer.
        peer.answers_pings = client_wire.name == "grpcio"
        await peer.send(response(stream))
        for number in range(10):
            await peer.send(data(stream, message(b"%d" % number)))
            assert await soon(call.read()) == b"%d" % number
            await asyncio.sleep(0.05)
        await peer.send(trailers(stream))
        assert await soon(call.code()) is grpc.StatusCode.OK


async def test_server_that_went_away_and_dies_fails_its_last_calls(client_wire: Wire) -> None:
    """A connection that takes no new calls is watched for as long as it has old ones."""
    async with calling(client_wire) as (listener, channel):
        code = begin(channel)
        peer = await listener.accept()
        stream = (await listener.request(peer)).stream
        await peer.send(response(stream), goaway(stream))
        await peer.settled()
        peer.answers_pings = False
        begun = time.monotonic()
        assert await soon(code) is UNAVAILABLE
        assert time.monotonic() - begun <= INTERVAL_S + TIMEOUT_S + SLACK_S
        await peer.end()


async def test_server_that_calls_the_pings_too_many_gets_half_of_them(client_wire: Wire) -> None:
    """gRFC A8: GOAWAY with "too_many_pings" doubles the interval of the channel's next connections."""
    async with calling(client_wire, WITHOUT_CALLS) as (listener, channel):
        intervals = []
        for _ in range(2):
            peer = await be_called(listener, channel)
            begun = time.monotonic()
            await peer.take(is_question)
            intervals.append(time.monotonic() - begun)
            await peer.send(goaway(1, h2.ENHANCE_YOUR_CALM, b"too_many_pings"))
            await peer.end()
        assert intervals[0] >= INTERVAL_S * 0.9
        assert intervals[1] >= INTERVAL_S * 1.9
