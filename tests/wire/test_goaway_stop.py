"""Servers that stop: calls in flight, calls beyond the time of grace, callers who come too late, slow readers, restarts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import pytest

from tests.wire import frames as h2
from tests.wire import raw
from tests.wire.frames import INITIAL_WINDOW_SIZE, data, message, request, window_update
from tests.wire.pairs import Context, Rig, Served, Wire, path, refusal, service, soon, stream_unary, unary_stream, unary_unary

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
SIZE = 300_000


class Methods:
    """Calls that last until they are let go."""

    def __init__(self) -> None:
        self.begun = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()
        self.cancelled = 0

    def handler(self) -> grpc.GenericRpcHandler:
        return service(
            Echo=unary_unary(self.echo),
            Big=unary_unary(self.big),
            Wait=unary_unary(self.wait),
            Watch=unary_stream(self.watch),
            Count=stream_unary(self.count),
        )

    async def pause(self) -> None:
        self.begun.release()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def echo(self, request: bytes, context: Context) -> bytes:
        """Answers at once."""
        return request

    async def big(self, request: bytes, context: Context) -> bytes:
        """Answers much at once."""
        self.begun.release()
        return bytes(SIZE)

    async def wait(self, request: bytes, context: Context) -> bytes:
        """Answers when let go."""
        await self.pause()
        return b"done"

    async def watch(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Answers once at once, and once when let go."""
        yield b"one"
        await self.pause()
        yield b"two"

    async def count(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """Answers when the request ends."""
        self.begun.release()
        return b"%d" % len([item async for item in requests])


async def serve(wire: Wire, methods: Methods) -> Served:
    """A started server that the test itself stops."""
    server = wire.server()
    server.add_generic_rpc_handlers([methods.handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return Served(server, port)


async def test_stop_with_grace_lets_calls_in_flight_finish(rig: Rig) -> None:
    """Unary calls and streams get all of their answers, and stop() returns when they have, long before the time is over."""
    methods = Methods()
    served = await rig.serve(methods.handler())
    channel = rig.connect(served)
    unary = asyncio.ensure_future(channel.unary_unary(path("Wait"))(b"").code())
    watch = channel.unary_stream(path("Watch"))(b"")
    count = channel.stream_unary(path("Count"))()
    await count.write(b"first")
    for _ in range(3):
        await soon(methods.begun.acquire())
    assert await soon(watch.read()) == b"one"
    stopping = asyncio.ensure_future(served.server.stop(25))
    # A call may cross the GOAWAY; the connection is left at once all the same, and there is no other.
    async with asyncio.timeout(10):
        while await channel.unary_unary(path("Echo"))(b"").code() is not UNAVAILABLE:
            await asyncio.sleep(0)
    await count.write(b"second")
    await count.done_writing()
    assert await soon(count) == b"2"
    methods.go_on.set()
    assert await soon(watch.read()) == b"two"
    assert await soon(watch.read()) is grpc.aio.EOF
    assert await soon(unary) is grpc.StatusCode.OK
    await soon(stopping)


@pytest.mark.parametrize("grace", [None, 0, 0.2])
async def test_stop_beyond_grace_cancels_calls_as_unavailable(rig: Rig, grace: float | None) -> None:
    """Callers may try elsewhere; handlers are cancelled; stop() returns."""
    methods = Methods()
    served = await rig.serve(methods.handler())
    channel = rig.connect(served)
    unary = channel.unary_unary(path("Wait"))(b"")
    watch = channel.unary_stream(path("Watch"))(b"")
    count = channel.stream_unary(path("Count"))()
    await count.write(b"first")
    for _ in range(3):
        await soon(methods.begun.acquire())
    assert await soon(watch.read()) == b"one"
    begun = time.monotonic()
    await soon(served.server.stop(grace))
    assert time.monotonic() - begun >= (grace or 0)
    assert (await refusal(unary)).code() is UNAVAILABLE
    assert (await refusal(watch.read())).code() is UNAVAILABLE
    assert (await refusal(count)).code() is UNAVAILABLE
    async with asyncio.timeout(10):
        while methods.cancelled < 2:
            await asyncio.sleep(0.01)


async def test_stop_during_drain_refuses_new_connections(rig: Rig) -> None:
    """Nobody listens any more from the moment that stop() was called."""
    methods = Methods()
    served = await rig.serve(methods.handler())
    unary = asyncio.ensure_future(rig.connect(served).unary_unary(path("Wait"))(b"").code())
    await soon(methods.begun.acquire())
    stopping = asyncio.ensure_future(served.server.stop(25))
    await asyncio.sleep(0)
    late = rig.connect(served, options=[("grpc.use_local_subchannel_pool", 1)])
    assert (await refusal(late.unary_unary(path("Echo"))(b""))).code() is UNAVAILABLE
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", served.port)
    methods.go_on.set()
    assert await soon(unary) is grpc.StatusCode.OK
    await soon(stopping)


async def test_stop_says_goaway_and_closes_when_calls_are_done(server_wire: Wire) -> None:
    """On each connection: GOAWAY without an error, its last stream not below a call that is served; then the end."""
    methods = Methods()
    served = await serve(server_wire, methods)
    async with raw.connect(served.target) as busy, raw.connect(served.target) as idle:
        await idle.settled()
        await busy.send(request(1, path("Wait")), data(1, message(), end=True))
        await soon(methods.begun.acquire())
        stopping = asyncio.ensure_future(served.server.stop(25))
        first = await busy.take(h2.GOAWAY)
        assert (first.number, first.last_stream >= 1) == (h2.NO_ERROR, True)
        last = await idle.end()
        assert last is not None
        assert last.number == h2.NO_ERROR
        methods.go_on.set()
        assert (await busy.answer(1)).status == 0
        last = await busy.end()
        assert last is not None
        assert (last.number, last.last_stream) == (h2.NO_ERROR, 1)
        # grpcio warns first, and names the last stream after a round trip.
        assert len([frame for frame in busy.seen if frame.type == h2.GOAWAY]) == (2 if server_wire.name == "grpcio" else 1)
        await soon(stopping)


async def test_stop_answers_or_disowns_a_request_that_crosses_its_goaway(server_wire: Wire) -> None:
    """A request sent before GOAWAY was read is served, refused, or above the last stream: never half done."""
    methods = Methods()
    served = await serve(server_wire, methods)
    async with raw.connect(served.target) as peer:
        peer.answers_pings = False
        await peer.send(request(1, path("Wait")), data(1, message(), end=True))
        await soon(methods.begun.acquire())
        stopping = asyncio.ensure_future(served.server.stop(0.3))
        await peer.take(h2.GOAWAY)
        await peer.send(request(3, path("Echo")), data(3, message(b"late"), end=True))
        methods.go_on.set()
        assert (await peer.answer(1)).status == 0
        last = await peer.end()
        assert last is not None
        answered = [frame for frame in peer.seen if frame.stream == 3 and frame.type in (h2.HEADERS, h2.RST_STREAM)]
        assert answered or last.last_stream < 3
        if server_wire.name != "grpcio":
            assert (answered, last.last_stream) == ([], 1)
        await soon(stopping)


async def test_request_after_the_last_goaway_harms_no_other_call(server_wire: Wire) -> None:
    """RFC 9113, 6.8: all frames of streams above the last one are ignored, header blocks, messages and resets."""
    methods = Methods()
    served = await serve(server_wire, methods)
    async with raw.connect(served.target) as peer:
        await peer.send(request(1, path("Wait")), data(1, message(), end=True))
        await soon(methods.begun.acquire())
        stopping = asyncio.ensure_future(served.server.stop(25))
        await peer.take(lambda frame: frame.type == h2.GOAWAY and frame.last_stream == 1)
        await peer.send(
            request(3, path("Echo")), data(3, message(b"late")), window_update(3, 100), data(3, end=True), h2.rst(3)
        )
        await peer.send(request(5, path("Echo")), data(5, message(b"late"), end=True))
        await peer.settled()
        methods.go_on.set()
        assert (await peer.answer(1)).status == 0
        await soon(stopping)


async def test_stop_sends_a_slow_reader_all_of_its_answer(server_wire: Wire) -> None:
    """An answer that waits for the reader's window counts as in flight, though its handler is done."""
    methods = Methods()
    served = await serve(server_wire, methods)
    async with raw.connect(served.target, settings={INITIAL_WINDOW_SIZE: 1000}) as peer:
        peer.refills = False
        await peer.send(request(1, path("Big")), data(1, message(), end=True))
        await soon(methods.begun.acquire())
        await peer.take(h2.DATA, 1)
        stopping = asyncio.ensure_future(served.server.stop(25))
        await peer.take(h2.GOAWAY)
        got = 1000
        while got < SIZE + 5:
            await peer.send(window_update(0, 40_000), window_update(1, 40_000))
            more = min(got + 40_000, SIZE + 5)
            await peer.until(lambda more=more: sum(len(f.payload) for f in peer.seen if f.type == h2.DATA) >= more or None)
            got = more
        answer = await peer.answer(1)
        assert answer.status == 0
        await soon(stopping)


async def test_stop_is_not_held_up_by_a_reader_that_is_gone_deaf(server_wire: Wire) -> None:
    """Beyond the time of grace nobody's window is waited for."""
    methods = Methods()
    served = await serve(server_wire, methods)
    async with raw.connect(served.target, settings={INITIAL_WINDOW_SIZE: 0}) as peer:
        await peer.send(request(1, path("Big")), data(1, message(), end=True))
        await soon(methods.begun.acquire())
        await peer.stop_reading()
        await soon(served.server.stop(0.3))


async def test_server_restarted_on_its_port_is_found_again(rig: Rig) -> None:
    """The same channel reaches the new server, and the port is free at once."""
    methods = Methods()
    first = await rig.serve(methods.handler())
    channel = rig.connect(first, options=[("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 100)])
    echo = channel.unary_unary(path("Echo"))
    port = first.port
    for number in range(3):
        assert await soon(echo(b"%d" % number, wait_for_ready=True)) == b"%d" % number
        await soon(first.server.stop(None))
        # (A call that is written to a connection whose end is not known yet fails, as it should.)
        if channel.get_state() is grpc.ChannelConnectivity.READY:
            await soon(channel.wait_for_state_change(grpc.ChannelConnectivity.READY))
        first = await rig.serve(methods.handler(), port=port)
        assert first.port == port


async def test_stop_twice_takes_the_shorter_grace(rig: Rig) -> None:
    """Whoever is in more of a hurry wins; both return."""
    methods = Methods()
    served = await rig.serve(methods.handler())
    unary = rig.connect(served).unary_unary(path("Wait"))(b"")
    waiting = asyncio.ensure_future(unary.code())
    await soon(methods.begun.acquire())
    begun = time.monotonic()
    patient = asyncio.ensure_future(served.server.stop(25))
    await asyncio.sleep(0)
    await soon(asyncio.gather(patient, served.server.stop(0.2)))
    assert 0.2 <= time.monotonic() - begun < 5
    assert await soon(waiting) is UNAVAILABLE
    await soon(served.server.stop(None))


async def test_wait_for_termination_returns_when_the_server_stops(server_wire: Wire) -> None:
    """True says that the time is over, False that the server is gone."""
    served = await serve(server_wire, Methods())
    assert await soon(served.server.wait_for_termination(0.05)) is True
    waiting = asyncio.ensure_future(served.server.wait_for_termination())
    await asyncio.sleep(0)
    assert not waiting.done()
    await soon(served.server.stop(None))
    assert await soon(waiting) is False
    assert await soon(served.server.wait_for_termination()) is False


async def test_server_started_or_stopped_out_of_turn_stays_sane(server_wire: Wire) -> None:
    """Started twice is started; stopped before it was started is stopped; stopped is for ever."""
    served = await serve(server_wire, Methods())
    await served.server.start()
    async with raw.connect(served.target) as peer:
        assert (await peer.call(1, path("Echo"), b"x")).messages == [b"x"]
    await soon(served.server.stop(None))
    with pytest.raises(grpc.aio.UsageError):
        await served.server.start()
    await soon(server_wire.server().stop(1))
