"""The bounds that stop attackers must not stop others: peers that do much, in unusual order, or for a long time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import hpack
import pytest

import kvwire
from kvwire import limits
from tests.wire import frames as h2
from tests.wire import raw
from tests.wire.pairs import (
    PAIRS,
    Context,
    Rig,
    opened,
    path,
    refusal,
    service,
    soon,
    stream_stream,
    stream_unary,
    unary_stream,
    unary_unary,
)

KVWIRE = PAIRS[-1]
MIB = 1024 * 1024


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """A kvwire server and kvwire channels."""
    async with opened(KVWIRE) as made:
        yield made


async def echo(request: bytes, context: Context) -> bytes:
    """What came."""
    return request


async def count(requests: AsyncIterator[bytes], context: Context) -> bytes:
    """How many messages came."""
    return b"%d" % sum([1 async for _ in requests])


async def settled(server: Any) -> None:
    """Nothing is held any more, and no call is under way."""
    async with asyncio.timeout(5):
        while server._memory.held or server.in_flight:
            await asyncio.sleep(0.01)


async def test_calls_that_are_refused_by_thousands_leave_their_connection_alone(rig: Rig) -> None:
    """A server that sheds load, or does not know a method, says so to each call; none of them ends otherwise."""
    served = await rig.serve(service(Echo=unary_unary(echo)), maximum_concurrent_rpcs=1)
    channel = rig.connect(served)
    unknown, known = channel.unary_unary(path("Unknown")), channel.unary_unary(path("Echo"))
    for call in (unknown, known):
        for _ in range(5):
            outcomes = await asyncio.gather(*(call(b"request") for _ in range(1_000)), return_exceptions=True)
            codes = {error.code() for error in outcomes if isinstance(error, grpc.aio.AioRpcError)}
            assert codes <= {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert await known(b"alone") == b"alone"
    await settled(served.server)


async def test_stream_of_small_messages_that_is_cancelled_leaves_its_connection_alone(rig: Rig) -> None:
    """Thousands of messages may be under way when a reader goes away; other calls of the connection go on."""

    async def many(request: bytes, context: Context) -> AsyncIterator[bytes]:
        while True:
            yield b"small"

    channel = await rig.open(Echo=unary_unary(echo), Many=unary_stream(many))
    known = channel.unary_unary(path("Echo"))
    for _ in range(20):
        stream = channel.unary_stream(path("Many"))(b"")
        await stream.read()
        stream.cancel()
        assert await soon(known(b"x")) == b"x"


async def test_stream_that_the_server_ends_early_takes_no_more_requests(rig: Rig) -> None:
    """Whoever writes on learns that the call is over; the connection carries other calls, and holds nothing."""

    async def early(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    channel = await rig.open(Echo=unary_unary(echo), Early=stream_stream(early))
    call = channel.stream_stream(path("Early"))()
    await call.write(b"first")
    connection = channel._subchannel.connection
    async with asyncio.timeout(5):
        while connection.streams:
            await asyncio.sleep(0.01)
    with pytest.raises((asyncio.InvalidStateError, grpc.aio.AioRpcError)):
        await soon(call.write(b"late"))
    assert [await call.read(), await call.read(), await call.read()] == [b"one", b"two", grpc.aio.EOF]
    assert await soon(channel.unary_unary(path("Echo"))(b"x")) == b"x"
    assert connection.held == 0


async def test_peer_without_a_header_table_can_read_the_first_answer(rig: Rig) -> None:
    """Who announces a table of size zero expects the next block to say that it is used so (RFC 7541 §4.2)."""
    served = await rig.serve(service(Echo=unary_unary(echo)))
    async with raw.connect(served.target, settings={h2.HEADER_TABLE_SIZE: 0}) as peer:
        strict = hpack.Decoder()
        strict.max_allowed_table_size = 0
        peer._decoder = strict
        for stream in (1, 3):
            assert (await peer.call(stream, path("Echo"), b"x")).messages == [b"x"]


async def test_stream_ids_that_are_used_up_by_calls_are_followed_by_another_connection(rig: Rig) -> None:
    """2^30 calls are ten hours of a busy client; a watch from before goes on on the old connection."""

    async def watch(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"begun"
        await going_on.wait()
        yield b"later"

    going_on = asyncio.Event()
    channel = await rig.open(Echo=unary_unary(echo), Watch=unary_stream(watch))
    known = channel.unary_unary(path("Echo"))
    assert await known(b"x") == b"x"
    channel._subchannel.connection._next_id = 2**31 - 5
    watching = channel.unary_stream(path("Watch"))(b"")
    assert await watching.read() == b"begun"
    for _ in range(5):
        assert await soon(known(b"x")) == b"x"
    going_on.set()
    assert [await watching.read(), await watching.read()] == [b"later", grpc.aio.EOF]


@pytest.mark.parametrize("value", ["!!!", "=", "a", "\xff"])
async def test_binary_metadata_that_are_none_harm_no_other_call(rig: Rig, value: str) -> None:
    """The call is refused by itself, whether its method is known or not; nothing is raised into the event loop."""
    served = await rig.serve(service(Echo=unary_unary(echo)))
    async with raw.connect(served.target) as peer:
        for stream, method in ((1, "Echo"), (3, "Unknown")):
            await peer.send(h2.request(stream, path(method), (("a-bin", value),), end=True))
            answer = await peer.answer(stream)
            assert answer.reset is not None or answer.status or answer.http_status >= 400
        assert (await peer.call(5, path("Echo"), b"x")).messages == [b"x"]


async def test_connection_that_is_closed_for_its_memory_leaves_no_handler_behind(rig: Rig) -> None:
    """Also a handler that was about to begin when its connection was given up."""
    begun, ended = 0, 0

    async def wait(request: bytes, context: Context) -> bytes:
        nonlocal begun, ended
        begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            ended += 1
        return b""

    served = await rig.serve(service(Wait=unary_unary(wait)))
    server: Any = served.server
    server._memory.limit = 100_000
    call = b"".join(
        h2.request(stream, path("Wait")) + h2.data(stream, h2.message(bytes(1_000)), end=True) for stream in range(1, 60, 2)
    )
    async with raw.connect(served.target) as peer:
        await peer.send(call)
        goaway = await peer.end()
    assert goaway is not None
    assert goaway.number == h2.ENHANCE_YOUR_CALM
    await settled(server)
    await asyncio.sleep(0.05)
    assert begun == ended


async def test_connection_that_others_push_out_is_closed_although_it_never_reads(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who holds most goes when the memory is full, also in the middle of another connection's turn."""
    monkeypatch.setattr(limits, "CLOSE_SECONDS_MAX", 0.2)

    async def big(request: bytes, context: Context) -> bytes:
        return bytes(5 * MIB)

    served = await rig.serve(service(Big=unary_unary(big), Count=stream_unary(count)))
    server: Any = served.server
    server._memory.limit = 6 * MIB
    async with raw.connect(served.target) as deaf, raw.connect(served.target) as other:
        await deaf.settled()
        await deaf.stop_reading()
        wide = h2.settings({h2.INITIAL_WINDOW_SIZE: 2**31 - 1}) + h2.window_update(0, 2**30)
        await deaf.send(wide, h2.request(1, path("Big")), h2.data(1, h2.message(b"x"), end=True))
        async with asyncio.timeout(5):
            while server._memory.held < 4 * MIB:
                await asyncio.sleep(0.01)
        for stream in range(1, 20, 2):
            half = h2.data(stream, h2.message(bytes(16_000), length=3 * MIB)) + h2.data(stream, bytes(16_000)) * 15
            await other.send(h2.request(stream, path("Count")), half)
        async with asyncio.timeout(5):
            while len(server._links) > 1:
                await asyncio.sleep(0.01)
        assert not other.ended


async def test_long_stream_of_compressed_messages_holds_one_at_a_time(rig: Rig) -> None:
    """What was unpacked for a handler that has gone on to the next message is not held any more."""
    served = await rig.serve(service(Count=stream_unary(count)))
    server: Any = served.server
    server._memory.limit = 8 * MIB

    def requests() -> Iterator[bytes]:
        for number in range(40):
            yield bytes([number]) * MIB

    call = rig.connect(served).stream_unary(path("Count"))
    assert await soon(call(requests(), compression=grpc.Compression.Gzip)) == b"40"
    await settled(server)


async def test_compressed_requests_of_blocking_handlers_need_no_thread_of_theirs() -> None:
    """A pool whose threads are all busy with handlers must not be needed to give them their next request."""
    with ThreadPoolExecutor(1) as pool:
        server = kvwire.server(pool)

        def count_blocking(requests: Iterator[bytes], context: Any) -> bytes:
            return b"%d" % sum(1 for _ in requests)

        server.add_generic_rpc_handlers((service(Count=stream_unary(count_blocking)),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with kvwire.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = channel.stream_unary(path("Count"))
                assert await soon(call(iter([b"a" * 1_000, b"b" * 1_000]), compression=grpc.Compression.Gzip), 5) == b"2"
        finally:
            await soon(server.stop(None))


async def test_server_that_goes_away_at_once_is_not_asked_thousands_of_times(rig: Rig) -> None:
    """Connections that were of no use are followed by a pause."""
    connections = 0
    async with raw.listen(greets=False) as listener:

        async def serve() -> None:
            nonlocal connections
            while True:
                peer = await listener.accept()
                connections += 1
                await peer.send(h2.settings() + h2.goaway(0))

        serving = asyncio.ensure_future(serve())
        try:
            call = rig.connect(listener.address).unary_unary(path("Echo"))
            error = await refusal(call(b"", timeout=1.0, wait_for_ready=True))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED or error.code() is grpc.StatusCode.UNAVAILABLE
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
    assert connections <= 10


async def test_client_that_ends_its_deadlines_by_the_thousand_is_no_attacker(rig: Rig) -> None:
    """All calls that one connection can carry may run into their deadlines at once."""

    async def wait(request: bytes, context: Context) -> bytes:
        await asyncio.Event().wait()
        return b""

    channel = await rig.open(Echo=unary_unary(echo), Wait=unary_unary(wait))
    waiting = channel.unary_unary(path("Wait"))
    outcomes = await asyncio.gather(*(waiting(b"", timeout=0.3) for _ in range(limits.STREAMS_MAX)), return_exceptions=True)
    codes = {error.code() for error in outcomes if isinstance(error, grpc.aio.AioRpcError)}
    assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert await soon(channel.unary_unary(path("Echo"))(b"x")) == b"x"


@pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
async def test_stream_that_is_made_again_elsewhere_reaches_its_waiting_reader(rig: Rig, kind: str) -> None:
    """A server goes away without a look at a call whose responses are awaited already: the next one's are read."""

    async def serve() -> None:
        peer = await listener.accept()
        await listener.request(peer)
        await peer.send(h2.goaway(0))
        peer = await listener.accept()
        request = await listener.request(peer)
        await peer.send(h2.response(request.stream), h2.data(request.stream, h2.message(b"here")))
        await peer.send(h2.trailers(request.stream))

    async with raw.listen() as listener:
        serving = asyncio.ensure_future(serve())
        channel = rig.connect(listener.address)
        call = channel.unary_stream(path("Many"))(b"") if kind == "unary_stream" else channel.stream_stream(path("Many"))()
        assert await soon(call.read(), 5) == b"here"
        assert await soon(call.read(), 5) is grpc.aio.EOF
        await serving


@pytest.mark.parametrize("ending", ["trailers", "reset", "hang-up"])
async def test_writer_that_waits_for_a_window_learns_that_the_call_has_ended(rig: Rig, ending: str) -> None:
    """Also when there are responses that nobody has read: whoever writes first and reads then gets to read."""
    async with raw.listen() as listener:
        channel = rig.connect(listener.address)
        call = channel.stream_stream(path("Chat"))()
        writing = asyncio.ensure_future(call.write(bytes(200_000)))
        peer = await listener.accept()
        peer.refills = False
        stream = (await listener.request(peer)).stream
        await peer.send(h2.response(stream), h2.data(stream, h2.message(b"unread")))
        await peer.settled()
        if ending == "trailers":
            await peer.send(h2.trailers(stream, 9))
        elif ending == "reset":
            await peer.send(h2.rst(stream, h2.INTERNAL_ERROR))
        else:
            await peer.close()
        with pytest.raises((asyncio.InvalidStateError, grpc.aio.AioRpcError)):
            await soon(writing, 5)
        assert await soon(call.read(), 5) == b"unread"
        with pytest.raises(grpc.aio.AioRpcError):
            await soon(call.read(), 5)
