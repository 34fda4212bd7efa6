"""Streams used out of turn, and ended early: what raises, what is told to whom."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.wire.pairs import (
    GRPCIO,
    WIRES,
    Context,
    Pair,
    Rig,
    collect,
    opened,
    path,
    refusal,
    soon,
    stream_stream,
    stream_unary,
    unary_stream,
)

StatusCode = grpc.StatusCode
EOF = grpc.aio.EOF


async def count(requests: AsyncIterator[bytes], context: Context) -> bytes:
    return str(len(await collect(requests))).encode()


async def three(request: bytes, context: Context) -> AsyncIterator[bytes]:
    for number in b"123":
        yield bytes([number])


async def first_only(requests: AsyncIterator[bytes], context: Context) -> bytes:
    async for request in requests:
        return request
    return b"none"


async def endless(closed: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    try:
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0)
    finally:
        if closed is not None:
            closed.set()


async def test_write_after_done_writing_is_an_invalid_state(rig: Rig) -> None:
    """A half-closed stream takes no more messages, and what was sent is answered."""
    call = (await rig.stream_unary(count))()
    await call.write(b"1")
    await call.done_writing()
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(b"2")
    assert await soon(call) == b"1"


async def test_write_after_the_call_ended_is_an_invalid_state(rig: Rig) -> None:
    """A call that is done takes no more messages; `done_writing()` has nothing to do."""
    call = (await rig.stream_unary(count))()
    await call.done_writing()
    assert await soon(call) == b"0"
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(b"2")
    await call.done_writing()
    assert await call.code() is StatusCode.OK


async def test_write_on_a_call_with_iterator_is_a_usage_error(rig: Rig) -> None:
    """One call, one style of sending; the call itself goes on."""
    call = (await rig.stream_unary(count))([b"1", b"2"])
    with pytest.raises(grpc.aio.UsageError):
        await call.write(b"3")
    with pytest.raises(grpc.aio.UsageError):
        await call.done_writing()
    assert await soon(call) == b"2"


async def test_read_and_iteration_on_one_call_is_a_usage_error(rig: Rig) -> None:
    """One call, one style of reading."""
    method = await rig.unary_stream(three)
    call = method(b"")
    assert await soon(call.read()) == b"1"
    with pytest.raises(grpc.aio.UsageError):
        await collect(call)
    assert await soon(call.read()) == b"2"
    call = method(b"")
    async for _ in call:
        break
    with pytest.raises(grpc.aio.UsageError):
        await call.read()
    assert await soon(collect(call)) == [b"2", b"3"]


async def test_iteration_that_is_left_may_be_taken_up_again(rig: Rig) -> None:
    """`async for` twice on one call goes on where it was left."""
    call = (await rig.unary_stream(three))(b"")
    async for message in call:
        assert message == b"1"
        break
    assert await soon(collect(call)) == [b"2", b"3"]
    assert await soon(collect(call)) == []
    assert await call.code() is StatusCode.OK


async def test_read_after_an_error_raises_it_again(rig: Rig) -> None:
    """The messages before it are delivered; then every read tells the same error."""

    async def handler(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"1"
        await context.abort(StatusCode.ABORTED, "enough", (("late", "1"),))

    method = await rig.unary_stream(handler)
    call = method(b"")
    assert await soon(call.read()) == b"1"
    for _ in range(3):
        error = await refusal(call.read())
        assert (error.code(), error.details(), error.trailing_metadata()) == (StatusCode.ABORTED, "enough", (("late", "1"),))
    call = method(b"")
    error = await refusal(collect(call))
    assert (error.code(), error.details()) == (StatusCode.ABORTED, "enough")


async def test_early_answer_while_the_caller_iterates_is_delivered(rig: Rig) -> None:
    """A handler may answer before the stream ends: the caller's iterator is stopped, the answer counts.

    (grpcio's client may take a write that fails for the end of the call, which is INTERNAL then.)
    """

    async def refuse(requests: AsyncIterator[bytes], context: Context) -> bytes:
        await context.abort(StatusCode.ABORTED, "enough")

    channel = await rig.open(First=stream_unary(first_only), Refuse=stream_unary(refuse))
    for method, wanted in (("First", StatusCode.OK), ("Refuse", StatusCode.ABORTED)):
        closed = asyncio.Event()
        call = channel.stream_unary(path(method))(endless(closed))
        code = await soon(call.code())
        assert code is wanted or (rig.pair.client.name == GRPCIO and code is StatusCode.INTERNAL)
        if code is StatusCode.OK:
            assert await soon(call) == b"x" * 1000
        elif code is StatusCode.ABORTED:
            assert (await refusal(call)).details() == "enough"
        await soon(closed.wait())


async def test_early_answer_while_the_caller_writes_is_delivered(rig: Rig) -> None:
    """The writes after it fail, by AioRpcError or as an invalid state; the answer is there to be awaited.

    (grpcio's client may take the failed write for the end of the call, which is INTERNAL then: the answer is asked of kvwire.)
    """
    call = (await rig.stream_unary(first_only))()

    async def write() -> None:
        for _ in range(100_000):
            await call.write(b"x" * 1000)

    with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)):
        await soon(write())
    code = await soon(call.code())
    if rig.pair.client.name == GRPCIO:
        assert code in (StatusCode.OK, StatusCode.INTERNAL)
    else:
        assert code is StatusCode.OK
        assert await soon(call) == b"x" * 1000
    await call.done_writing()


@pytest.mark.parametrize("end", [StatusCode.OK, StatusCode.ABORTED])
async def test_early_end_of_both_streams_is_delivered(rig: Rig, end: StatusCode) -> None:
    """Messages and code of a handler that left while requests come; grpcio may turn them into INTERNAL."""

    async def handler(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        yield b"1"
        yield b"2"
        if end is not StatusCode.OK:
            await context.abort(end, "enough")

    method = await rig.stream_stream(handler)
    closed = asyncio.Event()
    call = method(endless(closed))
    got: list[bytes] = []

    async def read() -> None:
        async for message in call:
            got.append(message)

    await soon(asyncio.wait([asyncio.ensure_future(read())]))
    code = await call.code()
    if rig.pair.client.name == GRPCIO:
        assert code in (end, StatusCode.INTERNAL)
    else:
        assert (code, got) == (end, [b"1", b"2"])
    await soon(closed.wait())


async def test_stream_that_ends_at_once_is_empty(rig: Rig) -> None:
    """No message, OK."""

    async def nothing(request: Any, context: Context) -> AsyncIterator[bytes]:
        return
        yield b""

    channel = await rig.open(G=unary_stream(nothing), B=stream_stream(nothing))
    for call in (channel.unary_stream(path("G"))(b""), channel.stream_stream(path("B"))([])):
        assert await soon(collect(call)) == []
        assert await call.code() is StatusCode.OK
    call = channel.unary_stream(path("G"))(b"")
    assert [await soon(call.read()), await soon(call.read())] == [EOF, EOF]


async def test_wait_for_connection_of_every_kind_returns(rig: Rig) -> None:
    """With a server there it returns nothing, and the call goes on."""

    channel = await rig.open(C=stream_unary(count), G=unary_stream(three), B=stream_stream(three))
    call = channel.stream_unary(path("C"))()
    await soon(call.wait_for_connection())
    await call.done_writing()
    assert await soon(call) == b"0"
    call = channel.unary_stream(path("G"))(b"")
    await soon(call.wait_for_connection())
    assert await soon(collect(call)) == [b"1", b"2", b"3"]
    call = channel.stream_stream(path("B"))()
    await soon(call.wait_for_connection())
    assert await soon(collect(call)) == [b"1", b"2", b"3"]


async def test_wait_for_connection_without_server_is_unavailable(rig: Rig) -> None:
    """All four kinds: UNAVAILABLE from waiting, from reading and from awaiting; writing is an invalid state."""
    served = await rig.serve()
    await served.server.stop(None)
    channel = rig.connect(served)
    for call in (
        channel.unary_unary(path("M"))(b""),
        channel.unary_stream(path("M"))(b""),
        channel.stream_unary(path("M"))(),
        channel.stream_stream(path("M"))(),
    ):
        assert (await refusal(call.wait_for_connection())).code() is StatusCode.UNAVAILABLE
        if hasattr(call, "write"):
            with pytest.raises(asyncio.InvalidStateError):
                await soon(call.write(b""))
        reading = call.read() if hasattr(call, "read") else call
        assert (await refusal(reading)).code() is StatusCode.UNAVAILABLE


async def test_handler_reading_after_the_end_gets_eof_again(rig: Rig) -> None:
    """`context.read()` past the end says EOF, always."""

    async def handler(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        while await context.read() is not EOF:
            pass
        assert await context.read() is EOF
        assert await context.read() is EOF
        yield b"end"

    assert await soon(collect((await rig.stream_stream(handler))([b"1", b"2"]))) == [b"end"]


async def test_handler_that_stops_reading_may_go_on_writing(rig: Rig) -> None:
    """Requests that nobody reads hold up no response."""

    async def handler(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request
            break
        for number in b"123":
            yield bytes([number])

    call = (await rig.stream_stream(handler))()
    await call.write(b"0")
    assert [await soon(call.read()) for _ in range(5)] == [b"0", b"1", b"2", b"3", EOF]
    assert await call.code() is StatusCode.OK


def test_stream_forgotten_after_its_loop_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of kvwire that is not read to its end, and outlives channel and event loop, is collected in silence.

    (Nothing is asked of grpcio, which wants its loop for that.)
    """
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)

    async def copy(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def unread() -> list[Any]:
        async with opened(Pair(WIRES[1], WIRES[1])) as rig:
            channel = await rig.open(B=stream_stream(copy), C=stream_unary(count))
            call = channel.stream_stream(path("B"))([b"1", b"2"])
            assert await soon(call.read()) == b"1"
            assert await soon(channel.stream_unary(path("C"))([])) == b"0"  # Whose answer comes behind the stream's end.
            return [call]

    left = asyncio.run(unread())
    assert not left[0].done()
    left.clear()
    gc.collect()
    assert raised == []
