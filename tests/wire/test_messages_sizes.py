"""Messages of every size pass unchanged, in all four kinds of call; those above a limit are refused, their connection lives.

The limits: `grpc.max_receive_message_length` (4 MiB by default) and `grpc.max_send_message_length` (none), of either side.
"""

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
    Wire,
    collect,
    path,
    refusal,
    soon,
    stream_stream,
    stream_unary,
    unary_stream,
    unary_unary,
)

StatusCode = grpc.StatusCode
KIB, MIB = 1024, 1024 * 1024
SIZES = [0, 1, 2, 16 * KIB - 6, 16 * KIB - 5, 16 * KIB - 1, 16 * KIB, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB, 4 * MIB]
"""Around the least frame of HTTP/2 and its first window; the last is the default limit."""
RECEIVE, SEND = "grpc.max_receive_message_length", "grpc.max_send_message_length"


def noise(size: int) -> bytes:
    """Bytes in which nothing can change places unseen."""
    return random.Random(size).randbytes(size)


async def echo(request: bytes, context: Context) -> bytes:
    return request


async def twice(request: bytes, context: Context) -> AsyncIterator[bytes]:
    yield request
    yield request


async def join(requests: AsyncIterator[bytes], context: Context) -> bytes:
    return b"".join(await collect(requests))


async def copy(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def make(request: bytes, context: Context) -> bytes:
    """As many bytes as it is told."""
    return b"x" * int(request)


async def make_stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
    """A small message, then as many bytes as it is told."""
    yield b"small"
    yield b"x" * int(request)


async def open_all(rig: Rig, server: Any = (), channel: Any = ()) -> Any:
    """A channel to all of these."""
    return await rig.open(
        Echo=unary_unary(echo),
        Twice=unary_stream(twice),
        Join=stream_unary(join),
        Copy=stream_stream(copy),
        Make=unary_unary(make),
        MakeStream=unary_stream(make_stream),
        server={"options": list(server)},
        channel={"options": list(channel)},
    )


async def test_messages_of_every_size_pass_unchanged(rig: Rig) -> None:
    """Empty ones, those that just fit a frame and those that do not, up to the default limit; one after the other."""
    channel = await open_all(rig)
    for size in SIZES:
        message = noise(size)
        assert await soon(channel.unary_unary(path("Echo"))(message)) == message, size
        assert await soon(collect(channel.unary_stream(path("Twice"))(message))) == [message, message], size
        assert await soon(collect(channel.stream_stream(path("Copy"))([message, b"", message]))) == [message, b"", message], (
            size
        )
    parts = [noise(size) for size in SIZES[:-1]]
    assert await soon(channel.stream_unary(path("Join"))(parts)) == b"".join(parts)


async def test_messages_of_mixed_sizes_at_once_do_not_mix(rig: Rig) -> None:
    """Large and small calls share the connection, and each gets its own."""
    channel = await open_all(rig)
    messages = [noise(size) for size in (MIB, 1, 300 * KIB, 0, 100 * KIB, 17, 2 * MIB, 5 * KIB)] * 3
    method = channel.unary_unary(path("Echo"))
    assert await soon(asyncio.gather(*map(method, messages))) == messages


async def assert_exhausted(call: Any, words: str, wire: Wire | None = None) -> None:
    """`wire`: of a client that streams requests; grpcio's may take its failing write for the end of the call."""
    error = await refusal(call)
    if wire is not None and wire.name == GRPCIO and error.code() is StatusCode.INTERNAL:
        return
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert words in error.details()


async def test_messages_above_the_default_limit_are_exhausting(rig: Rig) -> None:
    """4 MiB pass (see above), one byte more is refused by who receives it; nobody has to say so."""
    channel = await open_all(rig)
    echo_, make_ = channel.unary_unary(path("Echo")), channel.unary_unary(path("Make"))
    await assert_exhausted(echo_(b"x" * (4 * MIB + 1)), "(4194305 vs. 4194304)")
    await assert_exhausted(make_(b"%d" % (4 * MIB + 1)), "(4194305 vs. 4194304)")
    assert await soon(echo_(b"on")) == b"on"


@pytest.mark.parametrize("size", [101, 3 * MIB])
async def test_messages_above_what_a_server_receives_are_refused(rig: Rig, size: int) -> None:
    """Each kind of call ends as RESOURCE_EXHAUSTED by its first message that is too large; the connection serves the next.

    (grpcio's server takes a tenth of a second and more for each: it is asked less.)
    """
    channel, client = await open_all(rig, server=[(RECEIVE, 100)]), rig.pair.client
    fits, large = noise(100), noise(size)
    told = f"SERVER: Received message larger than max ({size} vs. 100)"
    assert await soon(channel.unary_unary(path("Echo"))(fits)) == fits
    assert await soon(collect(channel.stream_stream(path("Copy"))([fits, fits]))) == [fits, fits]
    await assert_exhausted(channel.unary_unary(path("Echo"))(large), told)
    await assert_exhausted(channel.stream_unary(path("Join"))([fits, large]), told, client)
    if size < MIB or rig.pair.server.name != GRPCIO:
        await assert_exhausted(collect(channel.unary_stream(path("Twice"))(large)), told)
        await assert_exhausted(collect(channel.stream_stream(path("Copy"))([fits, large])), told, client)
    assert await soon(channel.unary_unary(path("Echo"))(fits)) == fits


async def test_messages_above_what_a_server_sends_are_refused(rig: Rig) -> None:
    """The handler answers too much: its caller learns who was at fault, after what came before."""
    channel = await open_all(rig, server=[(SEND, 100)])
    told = "SERVER: Sent message larger than max (101 vs. 100)"
    assert await soon(channel.unary_unary(path("Make"))(b"100")) == b"x" * 100
    await assert_exhausted(channel.unary_unary(path("Make"))(b"101"), told)
    call = channel.unary_stream(path("MakeStream"))(b"101")
    assert await soon(call.read()) == b"small"
    await assert_exhausted(call.read(), told)
    await assert_exhausted(channel.stream_unary(path("Join"))([noise(50), noise(51)]), told)
    assert await soon(channel.unary_unary(path("Make"))(b"100")) == b"x" * 100


@pytest.mark.parametrize("size", [101, 3 * MIB])
async def test_messages_above_what_a_client_receives_are_refused(rig: Rig, size: int) -> None:
    """The call ends here, after what came before, and is cancelled at the server; the connection serves the next."""
    channel = await open_all(rig, channel=[(RECEIVE, 100)])
    told, wish = f"CLIENT: Received message larger than max ({size} vs. 100)", b"%d" % size
    assert await soon(channel.unary_unary(path("Make"))(b"100")) == b"x" * 100
    await assert_exhausted(channel.unary_unary(path("Make"))(wish), told)
    call = channel.unary_stream(path("MakeStream"))(wish)
    assert await soon(call.read()) == b"small"
    await assert_exhausted(call.read(), told)
    await assert_exhausted(channel.stream_unary(path("Join"))([noise(size)]), told)
    await assert_exhausted(collect(channel.stream_stream(path("Copy"))([noise(size)])), told)
    assert await soon(channel.unary_unary(path("Make"))(b"100")) == b"x" * 100


async def test_messages_above_what_a_client_sends_are_refused(rig: Rig) -> None:
    """Nothing of them leaves; the call ends as RESOURCE_EXHAUSTED, the next one is served."""
    called: list[int] = []

    async def handler(request: bytes, context: Context) -> bytes:
        called.append(len(request))
        return b""

    channel = await rig.open(
        H=unary_unary(handler), Join=stream_unary(join), Copy=stream_stream(copy), channel={"options": [(SEND, 100)]}
    )
    told = "CLIENT: Sent message larger than max (101 vs. 100)"
    fits, large = noise(100), noise(101)
    await soon(channel.unary_unary(path("H"))(fits))
    await assert_exhausted(channel.unary_unary(path("H"))(large), told)
    await assert_exhausted(channel.stream_unary(path("Join"))([fits, large]), told, rig.pair.client)
    await assert_exhausted(collect(channel.stream_stream(path("Copy"))([fits, large])), told, rig.pair.client)
    await soon(channel.unary_unary(path("H"))(fits))
    assert called == [100, 100]


async def test_write_of_a_message_above_the_limit_ends_the_call(rig: Rig) -> None:
    """`write()` itself tells the code; so does awaiting the call."""
    channel = await open_all(rig, channel=[(SEND, 100)])
    call = channel.stream_unary(path("Join"))()
    await soon(call.write(noise(100)))
    await assert_exhausted(call.write(noise(101)), "CLIENT: Sent message larger than max (101 vs. 100)", rig.pair.client)
    await assert_exhausted(call, "CLIENT: Sent message larger than max (101 vs. 100)", rig.pair.client)
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(b"more")


@pytest.mark.parametrize("side", ["server", "channel"])
async def test_messages_without_limit_or_with_none_at_all(rig: Rig, side: str) -> None:
    """-1 lets any size pass; 0 lets nothing pass but empty messages."""
    free = await open_all(rig, server=[(RECEIVE, -1), (SEND, -1)], channel=[(RECEIVE, -1), (SEND, -1)])
    large = noise(5 * MIB)
    assert await soon(free.unary_unary(path("Echo"))(large)) == large
    for option in (RECEIVE, SEND):
        shut = await open_all(rig, **{side: [(option, 0)]})
        assert await soon(shut.unary_unary(path("Echo"))(b"")) == b""
        await assert_exhausted(shut.unary_unary(path("Echo"))(b"x"), "(1 vs. 0)")
