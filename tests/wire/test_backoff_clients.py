"""Clients whose server is not there, or of no use: how often they try, what calls do meanwhile, how soon it is found."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from tests.wire import frames as h2
from tests.wire import raw
from tests.wire.frames import data, message, response, trailers
from tests.wire.pairs import HOST, Context, Rig, Wire, path, service, soon, unary_unary

OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
IDLE, CONNECTING, READY = grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING, grpc.ChannelConnectivity.READY
TRANSIENT_FAILURE, SHUTDOWN = grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN
SLACK_S = 2.0


def backoff(initial_ms: int, max_ms: int = 120_000, connect_ms: int = 2_000) -> list[tuple[str, Any]]:
    """Options: the first interval, the longest, and how long an attempt may take."""
    return [
        ("grpc.initial_reconnect_backoff_ms", initial_ms),
        ("grpc.max_reconnect_backoff_ms", max_ms),
        ("grpc.min_reconnect_backoff_ms", connect_ms),
        ("grpc.use_local_subchannel_pool", 1),
    ]


@contextlib.contextmanager
def reserved() -> Iterator[int]:
    """A port at which nobody listens, and which nobody else gets."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((HOST, 0))
        yield holder.getsockname()[1]


@contextlib.asynccontextmanager
async def calling(wire: Wire, port: int, options: list[tuple[str, Any]]) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a port."""
    channel = wire.insecure_channel(f"{HOST}:{port}", options=options)
    try:
        yield channel
    finally:
        await channel.close()


def begin(channel: grpc.aio.Channel, **options: Any) -> asyncio.Future[grpc.StatusCode]:
    """A call's code, once it has one."""
    return asyncio.ensure_future(channel.unary_unary(path("Method"))(b"q", **{"timeout": 25, **options}).code())


async def reach(channel: grpc.aio.Channel, state: grpc.ChannelConnectivity) -> None:
    """Wait until a channel has come to a state."""
    while (now := channel.get_state(try_to_connect=True)) is not state:
        await soon(channel.wait_for_state_change(now))


async def leave(channel: grpc.aio.Channel, state: grpc.ChannelConnectivity) -> None:
    """Wait until a channel knows that it is in a state no more: grpcio's calls may meet the connection that has just ended."""
    while channel.get_state() is state:
        await soon(channel.wait_for_state_change(state))


async def reply(peer: raw.Peer) -> None:
    """Answer a connection's next call, once it is whole."""
    last = await peer.take(lambda frame: frame.ends_stream)
    await peer.send(response(last.stream), data(last.stream, message(b"answer")), trailers(last.stream))


class Door:
    """A port whose connections are closed at once, without a word."""

    def __init__(self) -> None:
        self.knocks: list[float] = []
        self._news = asyncio.Event()

    async def open(self, port: int) -> asyncio.Server:
        """Begin to listen."""
        return await asyncio.start_server(self._on_connection, HOST, port, reuse_port=True)

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.knocks.append(time.monotonic())
        writer.transport.abort()
        self._news.set()

    async def wait(self, count: int) -> list[float]:
        """The times between so many knocks."""
        while len(self.knocks) < count:
            self._news.clear()
            await soon(self._news.wait())
        return [after - before for before, after in itertools.pairwise(self.knocks[:count])]


async def test_call_of_a_port_that_is_refused_fails_at_once(client_wire: Wire) -> None:
    """UNAVAILABLE with the address in its words; so do those that follow, without another attempt each."""
    with reserved() as port:
        async with calling(client_wire, port, backoff(60_000)) as channel:
            for _ in range(3):
                call = channel.unary_unary(path("Method"))(b"q", timeout=25)
                begun = time.monotonic()
                assert await soon(call.code()) is UNAVAILABLE
                assert time.monotonic() - begun < SLACK_S
                assert f"{HOST}:{port}" in (await call.details() or "")
            assert channel.get_state() is TRANSIENT_FAILURE


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
async def test_call_that_waits_for_a_server_is_served_by_the_one_that_appears(client_wire: Wire, kind: str) -> None:
    """With wait_for_ready no failure of an attempt ends it; the others fail meanwhile."""
    with reserved() as port:
        async with calling(client_wire, port, backoff(100, 200)) as channel:
            requests = iter([b"q"]) if kind.startswith("stream") else b"q"
            call = getattr(channel, kind)(path("Method"))(requests, timeout=25, wait_for_ready=True)
            waiting = asyncio.ensure_future(call.code())
            await reach(channel, TRANSIENT_FAILURE)
            assert await soon(begin(channel)) is UNAVAILABLE
            assert not waiting.done()
            async with raw.listen(port=port) as listener:
                peer = await listener.accept()
                await reply(peer)
                assert (await soon(call.read()) if kind.endswith("stream") else await soon(call)) == b"answer"
                assert await soon(waiting) is OK
                assert channel.get_state() is READY


async def test_caller_that_tries_again_at_once_finds_the_server_that_appears(client_wire: Wire) -> None:
    """A loop without a pause leaves the channel the time to connect."""
    with reserved() as port:
        async with calling(client_wire, port, backoff(100, 200)) as channel:
            assert await soon(begin(channel)) is UNAVAILABLE
            async with raw.listen(port=port) as listener:

                async def serve() -> None:
                    await reply(await listener.accept())

                serving = asyncio.ensure_future(serve())
                method = channel.unary_unary(path("Method"))
                while await method(b"q", timeout=25).code() is UNAVAILABLE:
                    pass
                await soon(serving)


async def test_call_that_waits_for_a_server_meets_its_deadline(client_wire: Wire) -> None:
    """It waits no longer than it was told to; given up by its caller, it is over at once."""
    with reserved() as port:
        async with calling(client_wire, port, backoff(100, 200)) as channel:
            late = begin(channel, wait_for_ready=True, timeout=0.4)
            call = channel.unary_unary(path("Method"))(b"q", timeout=25, wait_for_ready=True)
            await reach(channel, TRANSIENT_FAILURE)
            call.cancel()
            assert await soon(call.code()) is grpc.StatusCode.CANCELLED
            assert await soon(late) is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_server_that_appears_is_found_without_a_call(client_wire: Wire) -> None:
    """A channel that failed goes on trying by itself, and says so: callers may wait for its state."""
    with reserved() as port:
        async with calling(client_wire, port, backoff(100, 200)) as channel:
            assert channel.get_state() is IDLE
            await reach(channel, TRANSIENT_FAILURE)
            async with raw.listen(port=port) as listener:
                await listener.accept()
                await soon(channel.channel_ready())
                assert channel.get_state() is READY


async def test_attempts_that_fail_come_at_growing_intervals(client_wire: Wire) -> None:
    """The first interval as it was set, each next one 1.6 times as long up to the longest, give or take a fifth."""
    with reserved() as port:
        door = Door()
        async with await door.open(port), calling(client_wire, port, backoff(100, 200, 50)) as channel:
            waiting = begin(channel, wait_for_ready=True)
            gaps = await door.wait(6)
            for gap, interval in zip(gaps, [0.1, 0.16, 0.2, 0.2, 0.2], strict=True):
                assert interval * 0.75 <= gap <= interval * 1.25 + SLACK_S
            assert sum(gaps) >= 0.8 * 0.86 - 0.05
            waiting.cancel()


async def test_attempts_after_a_success_begin_with_the_first_interval(client_wire: Wire) -> None:
    """What is long past is forgiven."""
    with reserved() as port:
        door = Door()
        async with calling(client_wire, port, backoff(50, 60_000, 50)) as channel:
            async with await door.open(port):
                waiting = begin(channel, wait_for_ready=True)
                await door.wait(5)  # the next one would come after more than a quarter of a second
            async with raw.listen(port=port) as listener:
                peer = await listener.accept()
                await reply(peer)
                assert await soon(waiting) is OK
            await leave(channel, READY)
            again = Door()
            async with await again.open(port):
                waiting = begin(channel, wait_for_ready=True)
                first, second = (await again.wait(3))[:2]
                assert first < 0.05 * 1.25 + 0.2
                assert second < 0.08 * 1.25 + 0.2
                waiting.cancel()


@pytest.mark.parametrize("greets", [False, True])
async def test_server_that_says_nothing_fails_the_attempt_in_time(client_wire: Wire, greets: bool) -> None:
    """A port that takes connections is no server before its SETTINGS; one that sends no more than these is."""
    async with raw.listen(greets=greets) as listener, calling(client_wire, listener.port, backoff(100, 100, 300)) as channel:
        begun = time.monotonic()
        code = begin(channel, timeout=0.5)
        if greets:
            await listener.accept()
            assert await soon(code) is grpc.StatusCode.DEADLINE_EXCEEDED
            assert len(listener.peers) == 1
        else:
            assert await soon(code) is UNAVAILABLE
            assert 0.25 <= time.monotonic() - begun <= 0.3 + SLACK_S


async def test_server_that_is_slow_to_answer_is_waited_for(client_wire: Wire) -> None:
    """min_reconnect_backoff is what an attempt may take, however short the back-off is."""
    async with (
        raw.listen(greets=False) as listener,
        calling(client_wire, listener.port, backoff(100, 100, 5_000)) as channel,
    ):
        code = begin(channel)
        peer = await listener.accept()
        await asyncio.sleep(0.3)
        assert not code.done()
        await peer.send(h2.settings())
        await reply(peer)
        assert await soon(code) is OK
        assert len(listener.peers) == 1


async def test_server_that_goes_away_from_all_who_come_is_left_in_peace(client_wire: Wire) -> None:
    """Connections that were of no use are not made again in a hurry: a call that waits costs such a server little."""
    goodbye = h2.settings() + h2.goaway(0)
    knocks = 0

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal knocks
        knocks += 1
        writer.write(goodbye)
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    async with (
        await asyncio.start_server(on_connection, HOST, 0) as server,
        calling(client_wire, server.sockets[0].getsockname()[1], backoff(1_000)) as channel,
    ):
        await soon(begin(channel, timeout=0.5, wait_for_ready=True))
        # grpcio connects only when a call wants to, and fails each after two attempts.
        assert 1 <= knocks <= 6


async def test_server_restarted_again_and_again_loses_no_call_that_waits(rig: Rig) -> None:
    """Whenever it comes back, on the same port, callers who said that they would wait are served."""

    async def echo(request: bytes, context: Context) -> bytes:
        return request

    with reserved() as port:
        channel = rig.connect(f"{HOST}:{port}", options=backoff(50, 100))
        method = channel.unary_unary(path("Echo"))
        for _ in range(3):
            calls = [asyncio.ensure_future(method(b"x", timeout=25, wait_for_ready=True).code()) for _ in range(10)]
            await reach(channel, TRANSIENT_FAILURE)
            server = rig.pair.server.server()
            server.add_generic_rpc_handlers([service(Echo=unary_unary(echo))])
            assert server.add_insecure_port(f"{HOST}:{port}") == port
            await server.start()
            try:
                assert {await soon(call) for call in calls} == {OK}
            finally:
                await soon(server.stop(None))
            await leave(channel, READY)


async def test_channel_that_is_closed_while_it_connects_ends_what_waits(client_wire: Wire) -> None:
    """CANCELLED, at once, in whatever state the channel was; it is SHUTDOWN for ever."""
    with reserved() as port:
        for state in (CONNECTING, TRANSIENT_FAILURE):
            async with (
                raw.listen(greets=False) as silent,
                calling(client_wire, silent.port if state is CONNECTING else port, backoff(60_000, 60_000, 60_000)) as channel,
            ):
                waiting = begin(channel, wait_for_ready=True)
                await reach(channel, state)
                await soon(channel.close())
                assert await soon(waiting) is grpc.StatusCode.CANCELLED
                assert channel.get_state() is SHUTDOWN
