"""Compressed messages: gzip and deflate, from either side, by call, channel, server and context; counted on the wire."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.wire.pairs import (
    GRPCIO,
    Context,
    Rig,
    collect,
    path,
    refusal,
    service,
    soon,
    stream_stream,
    stream_unary,
    unary_stream,
    unary_unary,
)
from tests.wire.tap import Tap, tapped

StatusCode = grpc.StatusCode
NONE, DEFLATE, GZIP = grpc.Compression.NoCompression, grpc.Compression.Deflate, grpc.Compression.Gzip
PACKED = [GZIP, DEFLATE]
MIB = 1024 * 1024
LARGE = b"0123456789" * 10_000
"""A hundred kilobytes that packed are less than one."""
SMALL = 10_000
"""What a packed exchange stays below, with its connection's beginning."""


async def echo(request: bytes, context: Context) -> bytes:
    return request


async def accept(request: bytes, context: Context) -> bytes:
    return b"%d" % len(request)


async def twice(request: bytes, context: Context) -> AsyncIterator[bytes]:
    yield request
    yield request


async def accept_all(requests: AsyncIterator[bytes], context: Context) -> bytes:
    return b"%d" % sum([len(request) async for request in requests])


async def copy(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


METHODS: dict[str, Any] = {
    "Echo": unary_unary(echo),
    "Accept": unary_unary(accept),
    "Twice": unary_stream(twice),
    "AcceptAll": stream_unary(accept_all),
    "Copy": stream_stream(copy),
}


async def sent_by_client(tap: Tap, call: Any) -> int:
    """Bytes to the server during a call."""
    before = tap.to_server
    await soon(call)
    return tap.to_server - before


async def sent_by_server(tap: Tap, call: Any) -> int:
    """Bytes to the client during a call."""
    before = tap.to_client
    await soon(call)
    return tap.to_client - before


@pytest.mark.parametrize("how", PACKED)
async def test_requests_compressed_by_call_arrive_unpacked(rig: Rig, how: grpc.Compression) -> None:
    """All four kinds; a call beside it that does not ask is not compressed."""
    async with tapped(await rig.serve(service(**METHODS))) as tap:
        channel = rig.connect(tap.target)
        accept_ = channel.unary_unary(path("Accept"))
        assert await sent_by_client(tap, accept_(LARGE, compression=how)) < SMALL
        assert await sent_by_client(tap, accept_(LARGE)) > len(LARGE)
        assert await sent_by_client(tap, accept_(LARGE, compression=NONE)) > len(LARGE)
        assert await soon(accept_(LARGE, compression=how)) == b"%d" % len(LARGE)
        assert await soon(accept_(b"", compression=how)) == b"0"
        before = tap.to_server
        call = channel.unary_stream(path("Twice"))(LARGE, compression=how)
        assert await soon(collect(call)) == [LARGE, LARGE]
        assert await soon(channel.stream_unary(path("AcceptAll"))([LARGE, b"", LARGE], compression=how)) == b"200000"
        both = channel.stream_stream(path("Copy"))([LARGE, b"", LARGE], compression=how)
        assert await soon(collect(both)) == [LARGE, b"", LARGE]
        assert tap.to_server - before < SMALL
        await channel.close()


@pytest.mark.parametrize("how", PACKED)
async def test_requests_compressed_by_channel_arrive_unpacked(rig: Rig, how: grpc.Compression) -> None:
    """A channel's default holds for every call; a call may say otherwise (to grpcio's client only that it is another one)."""
    async with tapped(await rig.serve(service(**METHODS))) as tap:
        channel = rig.connect(tap.target, compression=how)
        accept_ = channel.unary_unary(path("Accept"))
        assert await sent_by_client(tap, accept_(LARGE)) < SMALL
        assert await sent_by_client(tap, channel.stream_unary(path("AcceptAll"))([LARGE, LARGE])) < SMALL
        seen = await sent_by_client(tap, accept_(LARGE, compression=NONE))
        assert seen > len(LARGE) or rig.pair.client.name == GRPCIO
        other = DEFLATE if how is GZIP else GZIP
        assert await soon(accept_(LARGE, compression=other)) == b"%d" % len(LARGE)
        await channel.close()


@pytest.mark.parametrize("how", PACKED)
async def test_responses_compressed_by_server_arrive_unpacked(rig: Rig, how: grpc.Compression) -> None:
    """A server's default holds for every response, and says nothing about requests."""
    async with tapped(await rig.serve(service(**METHODS), compression=how)) as tap:
        channel = rig.connect(tap.target)
        assert await sent_by_server(tap, channel.unary_unary(path("Echo"))(LARGE)) < SMALL
        assert await soon(channel.unary_unary(path("Echo"))(b"")) == b""
        before = tap.to_client
        assert await soon(collect(channel.unary_stream(path("Twice"))(LARGE))) == [LARGE, LARGE]
        assert await soon(collect(channel.stream_stream(path("Copy"))([LARGE, b"", LARGE]))) == [LARGE, b"", LARGE]
        assert tap.to_client - before < SMALL
        await channel.close()


@pytest.mark.parametrize("default", [None, GZIP, DEFLATE])
async def test_responses_compressed_by_context_arrive_unpacked(rig: Rig, default: grpc.Compression | None) -> None:
    """A handler decides for its own call, whatever the server's default is (on grpcio's server if its response is a stream)."""

    async def unary(request: bytes, context: Context) -> bytes:
        context.set_compression(grpc.Compression(request[0] - 48))
        return LARGE

    async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        context.set_compression(grpc.Compression(request[0] - 48))
        yield LARGE
        yield LARGE

    async with tapped(await rig.serve(service(U=unary_unary(unary), G=unary_stream(stream)), compression=default)) as tap:
        channel = rig.connect(tap.target)
        for how in (GZIP, DEFLATE, NONE):
            wish = b"%d" % how.value
            seen = await sent_by_server(tap, channel.unary_unary(path("U"))(wish))
            more = await sent_by_server(tap, collect(channel.unary_stream(path("G"))(wish)))
            assert (more < SMALL) == (how is not NONE), how
            if rig.pair.server.name != GRPCIO:
                assert (seen < SMALL) == (how is not NONE), how
        assert await soon(channel.unary_unary(path("U"))(b"2")) == LARGE
        assert await soon(collect(channel.unary_stream(path("G"))(b"1"))) == [LARGE, LARGE]
        await channel.close()


async def test_compression_set_too_late_raises_in_the_handler(rig: Rig) -> None:
    """Once the headers are sent no encoding can be named any more; what follows is sent as before."""
    raised: list[Exception] = []

    def compress(context: Context) -> None:
        try:
            context.set_compression(GZIP)
        except (RuntimeError, ValueError) as error:
            raised.append(error)

    async def unary(request: bytes, context: Context) -> bytes:
        await context.send_initial_metadata(())
        compress(context)
        return request

    async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield request
        compress(context)
        yield request

    channel = await rig.open(U=unary_unary(unary), G=unary_stream(stream))
    assert await soon(channel.unary_unary(path("U"))(LARGE)) == LARGE
    assert await soon(collect(channel.unary_stream(path("G"))(LARGE))) == [LARGE, LARGE]
    assert len(raised) == 2


async def test_compression_disabled_for_a_message_is_for_this_one(rig: Rig) -> None:
    """`disable_next_message_compression()`: secrets beside what an attacker chose are not compressed with it."""

    async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        context.set_compression(GZIP)
        yield LARGE
        context.disable_next_message_compression()
        yield LARGE
        yield LARGE

    async with tapped(await rig.serve(service(G=unary_stream(stream)))) as tap:
        channel = rig.connect(tap.target)
        seen = await sent_by_server(tap, collect(channel.unary_stream(path("G"))(b"")))
        assert len(LARGE) < seen < len(LARGE) + SMALL
        await channel.close()


@pytest.mark.parametrize("how", PACKED)
async def test_compression_both_ways_at_once_changes_no_answer(rig: Rig, how: grpc.Compression) -> None:
    """Calls with and without, noise and zeros, at once on one connection."""
    channel = await rig.open(**METHODS, server={"compression": how}, channel={"compression": how})
    messages = [random.Random(size).randbytes(size) + b"\0" * size for size in (0, 1, 100, 20_000, 300_000)]
    method = channel.unary_unary(path("Echo"))
    calls = [method(message, compression=wish) for message in messages for wish in (None, NONE, GZIP, DEFLATE)]
    assert await soon(asyncio.gather(*calls)) == [message for message in messages for _ in range(4)]


@pytest.mark.parametrize("how", PACKED)
async def test_compressed_messages_above_a_limit_are_refused(rig: Rig, how: grpc.Compression) -> None:
    """The limit is that of the unpacked message, on both sides: a bomb of 16 MiB in 16 KB is RESOURCE_EXHAUSTED."""

    async def bomb(request: bytes, context: Context) -> bytes:
        context.set_compression(how)
        return b"\0" * int(request)

    channel = await rig.open(Bomb=unary_unary(bomb), **METHODS)
    at_server, at_client = channel.unary_unary(path("Accept")), channel.unary_unary(path("Bomb"))
    for size in (4 * MIB + 1, 16 * MIB) if how is GZIP else (4 * MIB + 1,):
        error = await refusal(at_server(b"\0" * size, compression=how))
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        error = await refusal(at_client(b"%d" % size))
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert await soon(at_server(b"\0" * 4 * MIB, compression=how)) == b"%d" % (4 * MIB)
    assert await soon(at_client(b"%d" % (4 * MIB))) == b"\0" * 4 * MIB


async def test_sending_limit_counts_unpacked_bytes(rig: Rig) -> None:
    """`grpc.max_send_message_length` knows nothing of compression."""
    options = [("grpc.max_send_message_length", 1000)]
    both = {"options": options, "compression": GZIP}
    channel = await rig.open(**METHODS, channel=both)
    method = channel.unary_unary(path("Accept"))
    assert await soon(method(b"\0" * 1000)) == b"1000"
    assert (await refusal(method(b"\0" * 1001))).code() is StatusCode.RESOURCE_EXHAUSTED

    async def make(request: bytes, context: Context) -> bytes:
        return b"\0" * int(request)

    method = await rig.unary_unary(make, server=both)
    assert await soon(method(b"1000")) == b"\0" * 1000
    assert (await refusal(method(b"1001"))).code() is StatusCode.RESOURCE_EXHAUSTED
