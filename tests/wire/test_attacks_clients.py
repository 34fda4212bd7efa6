"""A hostile server against kvwire's client: its memory is bounded, its call ends with a status, and nothing hangs.

A client decides itself how many streams there are. Of each it keeps a window (STREAM_WINDOW_BYTES) of what nobody has read, and
of large messages LARGE_MESSAGES_SIZE_BYTES_MAX for a connection; compressed messages are kept as they came until they are read.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import kvwire
from kvwire import limits
from tests.wire import frames as h2
from tests.wire import raw
from tests.wire.pairs import path, soon

MIB = 1024 * 1024
GROWTH_MIB_MAX = 32
"""Of this process: one read, one message of 4 MiB with its copies, and what the test itself sends."""
CALL_SECONDS = 1.0
RESPONSE = h2.response(1)


def memory_mib() -> float:
    """VmRSS of this process."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def packed(size: int) -> bytes:
    """So many zeros, as gzip."""
    packer = zlib.compressobj(9, wbits=31)
    return packer.compress(bytes(size)) + packer.flush()


BOMB = packed(4 * MIB - 1)
GZIP = h2.response(1, (("grpc-encoding", "gzip"),))


def repeated(part: bytes, *first: bytes) -> Callable[[], Iterator[bytes]]:
    """`first`, then the same for ever."""
    return lambda: itertools.chain(first, itertools.repeat(part * max(1, 16_384 // len(part))))


Parts = Callable[[], Iterator[bytes]]
CALM = "RESOURCE_EXHAUSTED UNAVAILABLE INTERNAL UNKNOWN UNIMPLEMENTED CANCELLED PERMISSION_DENIED"
ENDED: dict[str, Parts] = {
    "PING": repeated(h2.ping()),
    "SETTINGS": repeated(h2.settings()),
    "windows that open and shut": repeated(h2.settings({4: 1}) + h2.settings({4: 0})),
    "PRIORITY": repeated(h2.frame(h2.PRIORITY, 0, 1, b"\x00\x00\x00\x00\x10")),
    "unknown frames": repeated(h2.frame(0x20)),
    "empty DATA": repeated(h2.data(1), RESPONSE),
    "informational headers": repeated(h2.response(1, status="103")),
    "GOAWAY that leaves the call": repeated(h2.goaway(1)),
    "WINDOW_UPDATE": repeated(h2.window_update(0, 1)),
    "CONTINUATION": repeated(h2.frame(h2.CONTINUATION, 0, 1), h2.headers(1, b"", flags=0)),
    "large CONTINUATION": repeated(h2.frame(h2.CONTINUATION, 0, 1, bytes(16_000)), h2.headers(1, b"", flags=0)),
    "headers of 60 KB": lambda: iter(h2.cut(h2.block([(":status", "200"), ("x", "y" * 60_000)]), 1, 16_000)),
    "header bomb": lambda: iter(
        [
            h2.response(1, status="103"),
            h2.headers(1, h2.literal("x", "y" * 4_000, remember=True) + h2.indexed(62) * 12_000),
        ]
    ),
    "headers within the response": repeated(RESPONSE, RESPONSE),
    "push": lambda: iter([h2.frame(h2.PUSH_PROMISE, h2.END_HEADERS, 1, b"\x00\x00\x00\x02")]),
    "message without headers": lambda: iter([h2.data(1, h2.message(b"x"))]),
    "message of a gigabyte": lambda: iter([RESPONSE + h2.data(1, h2.message(b"x", length=2**30))]),
    "gzip bomb": lambda: iter([GZIP + h2.data(1, h2.message(packed(16 * MIB), flag=1)[:16_000]) + h2.trailers(1)]),
    "message that is no gzip": lambda: iter([GZIP + h2.data(1, h2.message(b"nonsense", flag=1)) + h2.trailers(1)]),
    "message longer than announced": lambda: iter([RESPONSE + h2.data(1, h2.message(b"xyz" * 9, length=3)) + h2.trailers(1)]),
    "message that is cut short": lambda: iter([RESPONSE + h2.data(1, h2.message(b"x", length=3)) + h2.trailers(1)]),
    "more messages than one": repeated(h2.data(1, h2.message(b"x")), RESPONSE),
    "more data than the window": repeated(h2.data(1, bytes(16_000)), RESPONSE, h2.data(1, h2.message(b"", length=4 * MIB - 9))),
    "reset": lambda: iter([h2.rst(1, h2.CANCEL)]),
    "data after the end": lambda: iter([h2.trailers_only(1, 5) + h2.data(1, b"x") * 10]),
    "status of no number": lambda: iter([h2.trailers_only(1, "many")]),
    "status that there is not": lambda: iter([h2.trailers_only(1, 4_000)]),
    "no gRPC": lambda: iter([h2.response(1, status="200", content_type="text/html") + h2.data(1, b"<html>", end=True)]),
    "frame that is too large": lambda: iter([h2.data(1, bytes(20_000))]),
    "no HTTP/2": lambda: iter([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 10]),
}
"""What makes a unary call end, whatever its deadline."""

LASTING: dict[str, Parts] = {
    "nothing": lambda: iter([]),
    "headers that never end": lambda: iter([h2.headers(1, b"", flags=0)]),
    "half a message": lambda: iter([RESPONSE + h2.data(1, h2.message(b"x", length=4 * MIB - 9))]),
    "a window that is shut": lambda: iter([h2.settings({h2.INITIAL_WINDOW_SIZE: 0})]),
    "no stream at all": lambda: iter([h2.settings({h2.MAX_CONCURRENT_STREAMS: 0})]),
    "SETTINGS now and then": lambda: iter([h2.settings({h2.INITIAL_WINDOW_SIZE: size}) for size in range(0, 900, 18)]),
}
"""What a client must bear; the deadline ends the call."""


@contextlib.asynccontextmanager
async def hostile(make: Parts) -> AsyncIterator[tuple[kvwire.Channel, list[raw.Peer]]]:
    """A channel to a server that answers each first request by these bytes, as fast as they go."""
    peers: list[raw.Peer] = []

    async def attack(peer: raw.Peer) -> None:
        peer.acks_settings = peer.refills = False
        await listener.request(peer)
        for part in make():
            peer.writer.write(part)
            await peer.writer.drain()
            await asyncio.sleep(0)

    async def serve() -> None:
        while True:
            peer = await listener.accept()
            peers.append(peer)
            attacks.append(asyncio.ensure_future(attack(peer)))

    attacks: list[asyncio.Future[None]] = []
    async with raw.listen() as listener:
        serving = asyncio.ensure_future(serve())
        try:
            async with kvwire.insecure_channel(listener.address) as channel:
                yield channel, peers
        finally:
            for task in (serving, *attacks):
                task.cancel()
            await asyncio.gather(serving, *attacks, return_exceptions=True)


async def outcome(call: Coroutine[Any, Any, Any] | Any) -> grpc.StatusCode:
    """The status with which a call ends, which it does soon."""
    try:
        await soon(call, 2 * CALL_SECONDS + 5)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def held(channel: Any) -> int:
    """What the channel's connections hold."""
    return sum(link.connection.held for link in channel._subchannel._links)


@pytest.mark.parametrize("name", ENDED)
async def test_server_that_breaks_rules_ends_its_calls_alone(name: str) -> None:
    """A status long before the deadline, bounded memory, and nothing that is held behind it."""
    before = memory_mib()
    async with hostile(ENDED[name]) as (channel, _):
        code = await outcome(channel.unary_unary(path("Method"))(b"request", timeout=30))
        assert code not in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK)
        assert held(channel) == 0
    assert memory_mib() - before < GROWTH_MIB_MAX


@pytest.mark.parametrize("name", LASTING)
async def test_server_that_does_nothing_more_is_left_at_the_deadline(name: str) -> None:
    """DEADLINE_EXCEEDED in time."""
    async with hostile(LASTING[name]) as (channel, _):
        code = await outcome(channel.unary_unary(path("Method"))(b"request", timeout=0.3))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert held(channel) == 0


@pytest.mark.parametrize(
    "part",
    [h2.data(1, h2.message()), h2.data(1, h2.message(b"x" * 1_000)), h2.data(1, h2.message(BOMB, flag=1))],
    ids=["messages of no bytes", "messages of 1 KB", "gzip bombs"],
)
async def test_stream_that_nobody_reads_holds_a_window_and_no_more(part: bytes) -> None:
    """The window shuts; what is compressed stays so until it is read. Whoever sends on is cut off."""
    before = memory_mib()
    async with hostile(lambda: itertools.chain([GZIP], itertools.repeat(part))) as (channel, peers):
        call = channel.unary_stream(path("Method"))(b"request", timeout=30)
        await soon(call.initial_metadata())
        async with asyncio.timeout(10):
            while not (peers[0].ended or call.done()):
                await asyncio.sleep(0.01)
                most = limits.STREAM_WINDOW_BYTES // 5 * limits.MESSAGE_OVERHEAD_BYTES + limits.STREAM_WINDOW_BYTES
                assert held(channel) <= most
        call.cancel()
        assert held(channel) == 0
    assert memory_mib() - before < GROWTH_MIB_MAX


async def test_endless_stream_is_read_in_turns_and_ends_when_its_reader_says_so() -> None:
    """A reader of an endless stream of tiny messages shares its event loop with others, however much is there."""
    part = h2.data(1, h2.message() * 3_000)

    async def serve() -> None:
        peer = await listener.accept()
        await listener.request(peer)
        await peer.send(RESPONSE, part * 15)
        while True:
            update = await peer.take(lambda frame: frame.type == h2.WINDOW_UPDATE and frame.stream == 1)
            await peer.send(part * (update.number // 15_000))

    async with raw.listen() as listener:
        serving = asyncio.ensure_future(serve())
        async with kvwire.insecure_channel(listener.address) as channel:
            call = channel.unary_stream(path("Method"))(b"request")
            turns, read, loop = 0, 0, asyncio.get_running_loop()

            def tick() -> None:
                nonlocal turns
                turns += 1
                if not call.done():
                    loop.call_soon(tick)

            tick()
            async for message in call:
                assert message == b""
                read += 1
                if read == 60_000:
                    break
            call.cancel()
            assert turns >= read // 200
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_server_that_resets_every_call_costs_each_call_alone() -> None:
    """A status for each of them, and no connection that is opened anew by the thousand."""
    connections = 0

    async def serve() -> None:
        nonlocal connections
        while True:
            peer = await listener.accept()
            connections += 1
            serving.append(asyncio.ensure_future(reset(peer)))

    async def reset(peer: raw.Peer) -> None:
        while True:
            frame = await listener.request(peer)
            await peer.send(h2.rst(frame.stream, h2.INTERNAL_ERROR))

    serving: list[asyncio.Future[None]] = []
    async with raw.listen() as listener:
        serving.append(asyncio.ensure_future(serve()))
        async with kvwire.insecure_channel(listener.address) as channel:
            call = channel.unary_unary(path("Method"))
            for _ in range(5):
                codes = await soon(asyncio.gather(*(outcome(call(b"x", timeout=10)) for _ in range(100))))
                assert set(codes) == {grpc.StatusCode.INTERNAL}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
    assert connections == 1
