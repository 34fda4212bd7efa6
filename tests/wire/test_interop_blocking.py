"""grpcio's blocking client and server, which run on threads, with every transport on the other side."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from tests.wire.certificates import authority
from tests.wire.pairs import Context, Wire, path, service, soon, stream_stream, stream_unary, unary_stream, unary_unary
from tests.wire.serving import served

Channel = grpc.Channel


async def echo(request: bytes, context: Context) -> bytes:
    """Echoes a message and its metadata."""
    metadata = tuple((key, value) for key, value in context.invocation_metadata() or () if key.startswith("x-"))
    await context.send_initial_metadata(metadata)
    context.set_trailing_metadata(metadata)
    return request


async def count(request: bytes, context: Context) -> AsyncIterator[bytes]:
    """Counts to a number."""
    for number in range(int(request)):
        yield b"%d" % number


async def add(requests: AsyncIterator[bytes], context: Context) -> bytes:
    """Adds numbers."""
    return b"%d" % sum([int(item) async for item in requests])


async def chat(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
    """Echoes a stream."""
    async for item in requests:
        yield item


async def fail(request: bytes, context: Context) -> bytes:
    """Fails."""
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today", (("x-why", "rain"),))


async def wait(request: bytes, context: Context) -> bytes:
    """Never answers."""
    await asyncio.Event().wait()
    return b""


ASYNC = service(
    Echo=unary_unary(echo),
    Count=unary_stream(count),
    Add=stream_unary(add),
    Chat=stream_stream(chat),
    Fail=unary_unary(fail),
    Wait=unary_unary(wait),
)


async def on_threads(wire: Wire, use: Callable[[Channel], Any], *, secure: bool = False) -> Any:
    """What `use` returns on a thread of its own, given a blocking channel to a server of a transport."""
    credentials = wire.ssl_server_credentials([authority().server]) if secure else None
    async with served(wire, ASYNC, credentials=credentials) as address:
        if secure:
            target = address.replace("127.0.0.1", "localhost")
            channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(authority().root))
        else:
            channel = grpc.insecure_channel(address)
        try:
            return await soon(asyncio.to_thread(use, channel), 20)
        finally:
            await asyncio.to_thread(channel.close)


@pytest.mark.parametrize("secure", [False, True])
async def test_blocking_client_makes_calls_of_all_kinds(server_wire: Wire, secure: bool) -> None:
    """Messages, metadata in both directions, streams."""

    def use(channel: Channel) -> None:
        answer, call = channel.unary_unary(path("Echo")).with_call(b"x", metadata=(("x-a", "1"), ("x-b-bin", b"\0\xff")))
        assert answer == b"x"
        for metadata in (call.initial_metadata(), call.trailing_metadata()):
            assert {("x-a", "1"), ("x-b-bin", b"\0\xff")} <= {(key, value) for key, value in metadata}
        assert list(channel.unary_stream(path("Count"))(b"100")) == [b"%d" % number for number in range(100)]
        assert channel.stream_unary(path("Add"))(iter([b"1", b"2", b"3"])) == b"6"
        items = [b"%d" % number * 1000 for number in range(50)]
        assert list(channel.stream_stream(path("Chat"))(iter(items))) == items
        big = bytes(2_000_000)
        assert channel.unary_unary(path("Echo"))(big) == big

    await on_threads(server_wire, use, secure=secure)


async def test_blocking_client_learns_how_calls_fail(server_wire: Wire) -> None:
    """Codes, details, trailing metadata, deadlines, cancellation."""

    def use(channel: Channel) -> None:
        with pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary(path("Fail"))(b"")
        error: Any = failed.value
        assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not today")
        assert ("x-why", "rain") in [tuple(item) for item in error.trailing_metadata()]
        with pytest.raises(grpc.RpcError) as late:
            channel.unary_unary(path("Wait"))(b"", timeout=0.2)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
        with pytest.raises(grpc.RpcError) as unknown:
            channel.unary_unary(path("Nothing"))(b"")
        assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]
        pending = channel.unary_unary(path("Wait")).future(b"")
        assert pending.cancel()
        assert pending.code() is grpc.StatusCode.CANCELLED
        stream = channel.unary_stream(path("Count"))(b"1000000")
        assert next(stream) == b"0"
        stream.cancel()
        with pytest.raises(grpc.RpcError):
            list(stream)

    await on_threads(server_wire, use)


async def test_blocking_clients_on_many_threads_share_a_channel(server_wire: Wire) -> None:
    """Each thread gets its own answers."""

    def use(channel: Channel) -> None:
        echoing = channel.unary_unary(path("Echo"))

        def work(number: int) -> None:
            for turn in range(20):
                assert echoing(b"%d %d" % (number, turn)) == b"%d %d" % (number, turn)

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(work, range(12)))

    await on_threads(server_wire, use)


class Waits:
    """What the handler that waits has seen."""

    def __init__(self) -> None:
        self.begun, self.cancelled = threading.Event(), threading.Event()


def blocking_methods(waits: Waits) -> grpc.GenericRpcHandler:
    """The same methods as above, on threads."""

    def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
        metadata = tuple((key, value) for key, value in context.invocation_metadata() if key.startswith("x-"))
        context.send_initial_metadata(metadata)
        context.set_trailing_metadata(metadata)
        return request

    def count(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        return (b"%d" % number for number in range(int(request)))

    def add(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return b"%d" % sum(map(int, requests))

    def chat(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        return requests

    def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("x-why", "rain"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")
        return b""

    def wait(request: bytes, context: grpc.ServicerContext) -> bytes:
        ended = threading.Event()
        waits.begun.set()
        if not context.add_callback(ended.set) or ended.wait(20):
            waits.cancelled.set()
        return b""

    return service(
        Echo=unary_unary(echo),
        Count=unary_stream(count),
        Add=stream_unary(add),
        Chat=stream_stream(chat),
        Fail=unary_unary(fail),
        Wait=unary_unary(wait),
    )


@contextlib.asynccontextmanager
async def calling(wire: Wire, *, secure: bool = False) -> AsyncIterator[tuple[grpc.aio.Channel, Waits]]:
    """A channel of a transport to a blocking server, and what its handler that waits has seen."""
    waits = Waits()
    server = grpc.server(ThreadPoolExecutor(8), [blocking_methods(waits)])
    if secure:
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([authority().server]))
        channel = wire.secure_channel(f"localhost:{port}", wire.ssl_channel_credentials(authority().root))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
        channel = wire.insecure_channel(f"127.0.0.1:{port}")
    server.start()
    try:
        yield channel, waits
    finally:
        await channel.close()
        await asyncio.to_thread(server.stop(None).wait)


async def items(many: list[bytes]) -> AsyncIterator[bytes]:
    """A stream of requests."""
    for item in many:
        yield item


@pytest.mark.parametrize("secure", [False, True])
async def test_blocking_server_answers_calls_of_all_kinds(client_wire: Wire, secure: bool) -> None:
    """Messages, metadata in both directions, streams."""
    async with calling(client_wire, secure=secure) as (channel, _):
        call = channel.unary_unary(path("Echo"))(b"x", metadata=(("x-a", "1"), ("x-b-bin", b"\0\xff")))
        assert await soon(call) == b"x"
        for metadata in (await call.initial_metadata(), await call.trailing_metadata()):
            assert {("x-a", "1"), ("x-b-bin", b"\0\xff")} <= set(metadata)
        counted = [item async for item in channel.unary_stream(path("Count"))(b"100")]
        assert counted == [b"%d" % number for number in range(100)]
        assert await soon(channel.stream_unary(path("Add"))(items([b"1", b"2", b"3"]))) == b"6"
        many = [b"%d" % number * 1000 for number in range(50)]
        assert [item async for item in channel.stream_stream(path("Chat"))(items(many))] == many
        big = bytes(2_000_000)
        assert await soon(channel.unary_unary(path("Echo"))(big)) == big
        echoing = channel.unary_unary(path("Echo"))
        assert await soon(asyncio.gather(*(echoing(b"%d" % n) for n in range(100)))) == [b"%d" % n for n in range(100)]


async def test_blocking_server_fails_calls_as_it_says(client_wire: Wire) -> None:
    """Codes, details, trailing metadata, deadlines; a cancelled call ends the handler's context."""
    async with calling(client_wire) as (channel, waits):
        failed = channel.unary_unary(path("Fail"))(b"")
        assert await soon(failed.code()) is grpc.StatusCode.FAILED_PRECONDITION
        assert await failed.details() == "not today"
        assert ("x-why", "rain") in set(await failed.trailing_metadata())
        late = channel.unary_unary(path("Wait"))(b"", timeout=0.2)
        assert await soon(late.code()) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await asyncio.to_thread(waits.cancelled.wait, 10)
        unknown = channel.unary_unary(path("Nothing"))(b"")
        assert await soon(unknown.code()) is grpc.StatusCode.UNIMPLEMENTED
        waits.cancelled.clear()
        waits.begun.clear()
        given_up = channel.unary_unary(path("Wait"))(b"")
        assert await asyncio.to_thread(waits.begun.wait, 10)
        given_up.cancel()
        assert await soon(given_up.code()) is grpc.StatusCode.CANCELLED
        assert await asyncio.to_thread(waits.cancelled.wait, 10)
