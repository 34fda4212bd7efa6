"""Deadlines: known to the handler, kept for the caller whatever the handler does, and forgotten with their call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.wire.pairs import (
    GRPCIO,
    Context,
    Rig,
    path,
    refusal,
    soon,
    stream_stream,
    stream_unary,
    unary_stream,
    unary_unary,
)
from tests.wire.stage import assert_unwound

StatusCode = grpc.StatusCode
SHORT = 0.15
LATE = 2.0
"""How long after its deadline a call may end on a busy machine."""


async def waiting(request: bytes, context: Context) -> bytes:
    await asyncio.Event().wait()
    return b""


async def expired(call: Any) -> float:
    """Seconds until the call ended by its deadline."""
    before = time.monotonic()
    assert (await refusal(call)).code() is StatusCode.DEADLINE_EXCEEDED
    return time.monotonic() - before


async def remaining(request: bytes, context: Context) -> bytes:
    return repr(context.time_remaining()).encode()


async def test_time_remaining_without_deadline_is_none(rig: Rig) -> None:
    """No time-out, no `grpc-timeout`: the handler may wait for ever."""
    method = await rig.unary_unary(remaining)
    call = method(b"")
    assert await soon(call) == b"None"
    assert call.time_remaining() is None


@pytest.mark.parametrize("timeout", [0.5, 5, 29.9, 100, 3600, 1e5, 1e6, 1e7, 9e7])
async def test_time_remaining_of_any_length_reaches_the_handler(rig: Rig, timeout: float) -> None:
    """From half a second to years; a client may round up what it sends, by two percent at most."""
    method = await rig.unary_unary(remaining)
    call = method(b"", timeout=timeout)
    assert timeout - LATE < float(await soon(call)) <= timeout * 1.02
    assert call.time_remaining() <= timeout


async def test_time_out_too_long_for_the_wire_still_works(rig: Rig) -> None:
    """`grpc-timeout` has eight digits: what is longer is sent as something shorter, and no call fails by it."""
    method = await rig.unary_unary(remaining)
    for timeout in (1e8, 1e9):
        assert float(await soon(method(b"", timeout=timeout))) > 1e7


async def test_handler_that_waits_is_cut_off_in_time(rig: Rig) -> None:
    """Caller and handler both learn it: DEADLINE_EXCEEDED here, CancelledError there."""
    ended: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(request: bytes, context: Context) -> bytes:
        context.add_done_callback(lambda context: ended.put_nowait("callback"))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.put_nowait("in time" if context.time_remaining() < 0.05 else "early")
            raise

    call = (await rig.unary_unary(handler))(b"", timeout=SHORT)
    assert 0 < call.time_remaining() <= SHORT
    assert SHORT * 0.9 < await expired(call) < SHORT + LATE
    assert call.time_remaining() == 0
    assert call.done()
    assert not call.cancelled()
    assert await call.code() is StatusCode.DEADLINE_EXCEEDED
    assert {await soon(ended.get()), await soon(ended.get())} == {"callback", "in time"}


async def test_handler_that_ignores_its_end_delays_no_caller(rig: Rig) -> None:
    """The caller's clock decides; what the handler returns afterwards goes nowhere."""
    go, ended = asyncio.Event(), asyncio.Event()

    async def stubborn(request: bytes, context: Context) -> bytes:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue
        ended.set()
        return b"too late"

    channel = await rig.open(S=unary_unary(stubborn), R=unary_unary(remaining))
    assert await expired(channel.unary_unary(path("S"))(b"", timeout=SHORT)) < SHORT + LATE
    assert await soon(channel.unary_unary(path("R"))(b"")) == b"None"
    go.set()
    await soon(ended.wait())
    assert await soon(channel.unary_unary(path("R"))(b"")) == b"None"


@pytest.mark.parametrize("timeout", [0, -1, -1e9, 1e-9])
async def test_deadline_already_past_fails_at_once(rig: Rig, timeout: float) -> None:
    """A call that begins too late ends before it is answered, for all four kinds."""

    async def stream(request: Any, context: Context) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    channel = await rig.open(U=unary_unary(waiting), G=unary_stream(stream), C=stream_unary(waiting), B=stream_stream(stream))
    assert await expired(channel.unary_unary(path("U"))(b"", timeout=timeout)) < LATE
    assert await expired(channel.unary_stream(path("G"))(b"", timeout=timeout).read()) < LATE
    assert await expired(channel.stream_unary(path("C"))(timeout=timeout)) < LATE
    assert await expired(channel.stream_stream(path("B"))(timeout=timeout).read()) < LATE


async def test_deadline_within_a_response_stream_ends_it(rig: Rig) -> None:
    """Messages that came before are delivered; then the stream ends as DEADLINE_EXCEEDED, on both sides."""
    ended: asyncio.Queue[str] = asyncio.Queue()

    async def handler(request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            yield b"1"
            yield b"2"
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.put_nowait("cancelled")
            raise

    method = await rig.unary_stream(handler)
    await soon(rig.channels[-1].channel_ready())  # Making a connection takes of the deadline.
    got = []

    async def read() -> None:
        async for message in method(b"", timeout=SHORT):
            got.append(message)

    await expired(read())
    assert got == [b"1", b"2"]
    assert await soon(ended.get()) == "cancelled"

    call = method(b"", timeout=SHORT)
    assert [await call.read(), await call.read()] == [b"1", b"2"]
    await expired(call.read())
    await expired(call.read())


async def test_deadline_within_a_request_stream_ends_it(rig: Rig) -> None:
    """The handler's reading stops, the caller's writing fails, the answer is DEADLINE_EXCEEDED.

    A handler on grpcio may first see an end of the stream and is cancelled at its next step; on kvwire it is cancelled at once,
    so that it cannot take a stream which was cut off for one which is complete.
    """
    ended: asyncio.Queue[str] = asyncio.Queue()

    async def handler(requests: AsyncIterator[bytes], context: Context) -> bytes:
        try:
            async for _ in requests:
                pass
            ended.put_nowait("complete")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.put_nowait("cancelled")
            raise
        return b""

    call = (await rig.stream_unary(handler))(timeout=SHORT)
    await call.write(b"1")
    await expired(call)
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(b"2")
    await call.done_writing()
    await assert_unwound(rig, ended)


@pytest.mark.parametrize("style", ["generator", "write"])
async def test_deadline_while_response_is_blocked_ends_the_handler(rig: Rig, style: str) -> None:
    """A caller that reads nothing holds no handler longer than to the deadline."""
    ended: asyncio.Queue[int] = asyncio.Queue()

    async def generator(request: bytes, context: Context) -> AsyncIterator[bytes]:
        written = 0
        try:
            for written in range(1000):  # noqa: B007
                yield b"x" * 100_000
        finally:
            ended.put_nowait(written)

    async def writer(request: bytes, context: Context) -> None:
        written = 0
        try:
            for written in range(1000):  # noqa: B007
                await context.write(b"x" * 100_000)
        finally:
            ended.put_nowait(written)

    call = (await rig.unary_stream(generator if style == "generator" else writer))(b"", timeout=SHORT)
    assert await soon(ended.get()) < 900
    assert await soon(call.code()) is StatusCode.DEADLINE_EXCEEDED


async def test_deadline_while_request_is_blocked_ends_the_write(rig: Rig) -> None:
    """A handler that reads nothing holds no caller longer than to the deadline; grpcio calls it INTERNAL."""

    async def deaf(requests: AsyncIterator[bytes], context: Context) -> bytes:
        await asyncio.Event().wait()
        return b""

    call = (await rig.stream_unary(deaf))(timeout=SHORT)
    written = 0

    async def write() -> None:
        nonlocal written
        for written in range(1000):  # noqa: B007
            await call.write(b"x" * 100_000)

    with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)):
        await soon(write())
    assert written < 900
    error = await refusal(call)
    assert error.code() is StatusCode.DEADLINE_EXCEEDED or (
        rig.pair.client.name == GRPCIO and error.code() is StatusCode.INTERNAL
    )


async def test_deadline_of_one_call_touches_no_other(rig: Rig) -> None:
    """Expired calls leave nothing behind: those beside them and after them on the connection have their own time."""
    go = asyncio.Event()

    async def patient(request: bytes, context: Context) -> bytes:
        await go.wait()
        return repr(context.time_remaining()).encode()

    channel = await rig.open(W=unary_unary(waiting), P=unary_unary(patient), R=unary_unary(remaining))
    beside = channel.unary_unary(path("P"))(b"")
    short = [channel.unary_unary(path("W"))(b"", timeout=SHORT) for _ in range(50)]
    for call in short:
        assert (await refusal(call)).code() is StatusCode.DEADLINE_EXCEEDED
    assert await soon(channel.unary_unary(path("R"))(b"")) == b"None"
    assert float(await soon(channel.unary_unary(path("R"))(b"", timeout=100))) > 90
    go.set()
    assert await soon(beside) == b"None"


async def test_answer_before_the_deadline_leaves_no_timer(rig: Rig) -> None:
    """A call that is done stays done, also when its deadline passes."""
    method = await rig.unary_unary(remaining)
    await soon(rig.channels[-1].channel_ready())
    call = method(b"", timeout=SHORT)
    await soon(call)
    await asyncio.sleep(SHORT * 1.5)
    assert await call.code() is StatusCode.OK
    assert await soon(method(b"")) == b"None"


async def test_code_at_the_deadline_is_one_for_all_who_ask(rig: Rig) -> None:
    """The error, `code()`, and a done callback agree."""
    told: list[Any] = []
    call = (await rig.unary_unary(waiting))(b"", timeout=SHORT)
    call.add_done_callback(lambda call: told.append((call.done(), call.cancelled())))
    await expired(call)
    assert (await call.code(), await call.initial_metadata()) == (StatusCode.DEADLINE_EXCEEDED, grpc.aio.Metadata())
    await asyncio.sleep(0)
    assert told == [(True, False)]
