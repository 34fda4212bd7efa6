"""Servers and silent clients: the dead are given up in time, the living kept, and whoever pings too often is sent away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.wire import frames as h2
from tests.wire import raw
from tests.wire.frames import data, message, request, window_update
from tests.wire.pairs import Context, Wire, path, service, soon, unary_stream, unary_unary
from tests.wire.serving import served

INTERVAL_S, TIMEOUT_S = 0.1, 0.25
SLACK_S = 3.0
OPTIONS: list[tuple[str, Any]] = [
    ("grpc.keepalive_time_ms", 100),
    ("grpc.keepalive_timeout_ms", 250),
    ("grpc.http2.ping_timeout_ms", 250),  # without which grpcio waits for a minute
    ("grpc.http2.max_pings_without_data", 0),
]
WITHOUT_CALLS = ("grpc.keepalive_permit_without_calls", 1)
MIB = 1 << 20


class Methods:
    """Calls that wait, and say how they ended."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    def handler(self) -> Any:
        return service(Echo=unary_unary(self.echo), Watch=unary_stream(self.watch), Pour=unary_stream(self.pour))

    async def echo(self, request: bytes, context: Context) -> bytes:
        return request

    async def watch(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """One message, and then nothing for ever."""
        yield b"first"
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    async def pour(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Messages as fast as they are taken."""
        try:
            while True:
                yield bytes(100_000)
        finally:
            self.cancelled.set()


def is_question(frame: h2.Frame) -> bool:
    """Whether a frame asks whether we live."""
    return frame.type == h2.PING and not frame.flags & h2.ACK


async def watch(peer: raw.Peer, stream: int = 1) -> None:
    """Open a stream, and take its first message."""
    await peer.send(request(stream, path("Watch")), data(stream, message(), end=True))
    await peer.take(h2.DATA, stream)


@pytest.mark.parametrize("way", ["deaf", "frozen"])
async def test_client_that_answers_no_ping_has_its_calls_cancelled(server_wire: Wire, way: str) -> None:
    """After the interval and the time-out the connection is closed, its handlers are cancelled, and others are served."""
    methods = Methods()
    async with served(server_wire, methods.handler(), options=OPTIONS) as address, raw.connect(address) as peer:
        await watch(peer)
        begun = time.monotonic()
        peer.answers_pings = False
        if way == "frozen":
            await peer.stop_reading()
        await soon(methods.cancelled.wait())
        assert TIMEOUT_S <= time.monotonic() - begun <= INTERVAL_S + TIMEOUT_S + SLACK_S
        if way == "deaf":
            await peer.end()
        async with raw.connect(address) as other:
            assert (await other.call(1, path("Echo"), b"x")).messages == [b"x"]


async def test_client_that_is_frozen_while_much_is_sent_has_its_calls_cancelled(server_wire: Wire) -> None:
    """A ping that cannot leave, because the socket is full, is not answered either."""
    methods = Methods()
    async with (
        served(server_wire, methods.handler(), options=OPTIONS) as address,
        raw.connect(address, settings={h2.INITIAL_WINDOW_SIZE: 256 * MIB}) as peer,
    ):
        await peer.send(window_update(0, 256 * MIB), request(1, path("Pour")), data(1, message(), end=True))
        await peer.take(h2.DATA, 1)
        await peer.stop_reading()
        await soon(methods.cancelled.wait())


async def test_client_that_dies_while_idle_is_closed_if_pings_without_calls_are_permitted(server_wire: Wire) -> None:
    """Half-open connections do not pile up."""
    async with (
        served(server_wire, Methods().handler(), options=[*OPTIONS, WITHOUT_CALLS]) as address,
        raw.connect(address) as peer,
    ):
        peer.answers_pings = False
        await peer.end()
        assert any(is_question(frame) for frame in peer.seen)


async def test_client_that_lives_keeps_its_connection(server_wire: Wire) -> None:
    """Ping after ping is answered; a stream without messages goes on."""
    methods = Methods()
    async with served(server_wire, methods.handler(), options=OPTIONS) as address, raw.connect(address) as peer:
        await watch(peer)
        for _ in range(2):
            await peer.take(is_question)
        assert not methods.cancelled.is_set()
        assert (await peer.call(3, path("Echo"), b"x")).messages == [b"x"]


async def test_idle_client_is_not_pinged_unless_that_is_permitted(server_wire: Wire) -> None:
    """Without calls no pings: the connection is nobody's concern."""
    async with served(server_wire, Methods().handler(), options=OPTIONS) as address, raw.connect(address) as peer:
        peer.answers_pings = False
        await peer.settled()
        await asyncio.sleep(0.5)  # longer than the interval and the time-out: that nothing comes takes time to see
        assert not any(is_question(frame) for frame in peer.seen)
        assert not peer.ended


# ---- pings that come too often ------------------------------------------------------------------------------------------

OFTEN = 12


async def ping(peer: raw.Peer, number: int) -> None:
    """Ask whether the server lives, and be told."""
    await peer.send(h2.ping(b"%08d" % number))
    await peer.take(lambda frame: frame.type == h2.PING and frame.flags == h2.ACK and frame.payload == b"%08d" % number)


async def pinged(peer: raw.Peer, gap: float = 0.0) -> int:
    """How many pings were answered before the connection was closed."""
    answered = 0
    try:
        while answered < OFTEN:
            await ping(peer, answered)
            answered += 1
            await asyncio.sleep(gap)
    except (raw.Ended, OSError):
        pass
    return answered


@pytest.mark.parametrize("state", ["idle", "a watch", "window updates between"])
async def test_pings_of_a_client_that_gets_nothing_are_soon_too_many(server_wire: Wire, state: str) -> None:
    """gRFC A8: the third that comes too early gets GOAWAY with ENHANCE_YOUR_CALM and "too_many_pings"; others are served on.

    grpcio forgives pings that come around its own first writes, which a busy machine delays: of it only the end is exact.
    """
    async with served(server_wire, Methods().handler()) as address, raw.connect(address) as peer, raw.connect(address) as other:
        if state == "a watch":
            await watch(peer)
        if state == "window updates between":
            await peer.send(*[window_update(0, 1)] * 3)
        answered = await pinged(peer)
        assert answered in (3, 4) if server_wire.name == "kvwire" else answered < OFTEN
        last = await peer.end()
        assert last is not None
        assert (last.number, last.payload[8:]) == (h2.ENHANCE_YOUR_CALM, b"too_many_pings")
        assert last.last_stream == (1 if state == "a watch" else 0)
        assert (await other.call(1, path("Echo"), b"x")).messages == [b"x"]


async def test_pings_of_a_client_that_is_sent_data_are_never_too_many(server_wire: Wire) -> None:
    """Clients measure a connection's bandwidth by pings: as long as they are sent something, none of them counts."""
    if server_wire.name == "grpcio":
        pytest.skip("grpcio judges by the time between its own writes, which a busy machine bends")
    async with served(server_wire, Methods().handler()) as address, raw.connect(address) as peer:
        await peer.send(request(1, path("Pour")), data(1, message(), end=True))
        for number in range(50):
            await peer.take(h2.DATA, 1)
            await ping(peer, number)
        for number in range(OFTEN):
            assert (await peer.call(3 + 2 * number, path("Echo"), b"x")).messages == [b"x"]
            await ping(peer, number)


@pytest.mark.parametrize("state", ["idle", "a watch"])
async def test_pings_at_the_permitted_interval_are_never_too_many(server_wire: Wire, state: str) -> None:
    """Whoever keeps to what the server says is answered for ever."""
    if server_wire.name == "grpcio":
        pytest.skip("grpcio judges by the time between its own writes, which a busy machine bends")
    options = [("grpc.http2.min_ping_interval_without_data_ms", 20), WITHOUT_CALLS]
    async with served(server_wire, Methods().handler(), options=options) as address, raw.connect(address) as peer:
        if state == "a watch":
            await watch(peer)
        assert await pinged(peer, 0.03) == OFTEN
        assert await pinged(peer) in (3, 4)
