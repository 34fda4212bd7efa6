"""Cancellation as handlers see it: where they wait, what they may still say, and their callbacks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.wire.pairs import GRPCIO, Context, Rig, path, soon, unary_stream, unary_unary
from tests.wire.stage import StatusCode, assert_cancelled, assert_unwound


@pytest.mark.parametrize("style", ["generator", "write"])
async def test_cancel_during_response_stream_stops_the_handler(rig: Rig, style: str) -> None:
    """A handler in the midst of sending is cancelled where it waits, and its `finally` runs."""
    ended: asyncio.Queue[str] = asyncio.Queue()

    async def generator(request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"tick"
                await asyncio.sleep(0.005)
        finally:
            ended.put_nowait("ended")

    async def writer(request: bytes, context: Context) -> None:
        try:
            while True:
                await context.write(b"tick")
                await asyncio.sleep(0.005)
        finally:
            ended.put_nowait("ended")

    method = await rig.unary_stream(generator if style == "generator" else writer)
    call = method(b"")
    assert [await soon(call.read()) for _ in range(3)] == [b"tick"] * 3
    call.cancel()
    await assert_cancelled(call)
    await assert_cancelled(call)
    assert await soon(ended.get()) == "ended"

    call, got = method(b""), []
    with pytest.raises(asyncio.CancelledError):
        await soon(_cancel_at_third(call, got))
    assert got == [b"tick"] * 3
    assert await soon(ended.get()) == "ended"


async def _cancel_at_third(call: Any, got: list[bytes]) -> None:
    async for message in call:
        got.append(message)
        if len(got) == 3:
            call.cancel()


@pytest.mark.parametrize("style", ["generator", "write"])
async def test_cancel_while_response_is_blocked_stops_the_handler(rig: Rig, style: str) -> None:
    """A handler that waits for a caller who reads nothing is freed when the caller goes."""
    ended: asyncio.Queue[int] = asyncio.Queue()
    blocked = asyncio.Event()
    written = 0

    async def watch() -> None:
        """Sets `blocked` when nothing was written for a while."""
        last = -1
        while last != written or not written:
            last = written
            await asyncio.sleep(0.05)
        blocked.set()

    async def generator(request: bytes, context: Context) -> AsyncIterator[bytes]:
        nonlocal written
        try:
            for written in range(1, 1000):  # noqa: B007
                yield b"x" * 100_000
        finally:
            ended.put_nowait(written)

    async def writer(request: bytes, context: Context) -> None:
        nonlocal written
        try:
            for written in range(1, 1000):  # noqa: B007
                await context.write(b"x" * 100_000)
        finally:
            ended.put_nowait(written)

    call = (await rig.unary_stream(generator if style == "generator" else writer))(b"")
    watching = asyncio.create_task(watch())
    await soon(blocked.wait())
    await watching
    assert ended.empty()
    call.cancel()
    assert await soon(ended.get()) < 999


async def test_cancel_during_request_stream_stops_both_sides(rig: Rig) -> None:
    """Writing afterwards is an invalid state; the handler does not take what it got for complete.

    (On grpcio it may: the iterator ends first, and the handler is cancelled at its next step.)
    """
    reading, ended = asyncio.Event(), asyncio.Queue[str]()

    async def handler(requests: AsyncIterator[bytes], context: Context) -> bytes:
        try:
            async for _ in requests:
                reading.set()
            ended.put_nowait("complete")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.put_nowait("cancelled")
            raise
        return b""

    call = (await rig.stream_unary(handler))()
    await call.write(b"1")
    await soon(reading.wait())
    assert call.cancel()
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(b"2")
    await call.done_writing()
    await assert_cancelled(call)
    await assert_unwound(rig, ended)


async def test_cancel_while_the_handler_reads_by_method_stops_it(rig: Rig) -> None:
    """`context.read()` of a cancelled call raises CancelledError (on grpcio perhaps the next step, after an EOF)."""
    reading, ended = asyncio.Event(), asyncio.Queue[str]()

    async def handler(requests: AsyncIterator[bytes], context: Context) -> None:
        try:
            while await context.read() is not grpc.aio.EOF:
                reading.set()
            ended.put_nowait("complete")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.put_nowait("cancelled")
            raise

    call = (await rig.stream_stream(handler))()
    await call.write(b"1")
    await soon(reading.wait())
    call.cancel()
    await assert_unwound(rig, ended)


async def test_abort_in_a_cancelled_handler_reaches_nobody(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """What a handler says after its call was cancelled goes nowhere, and breaks nothing."""
    caplog.set_level(logging.CRITICAL)
    started, ended = asyncio.Event(), asyncio.Event()

    async def handler(request: bytes, context: Context) -> bytes:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            try:
                await context.abort(StatusCode.ABORTED, "too late")
            finally:
                ended.set()
        return b""

    async def echo(request: bytes, context: Context) -> bytes:
        return request

    channel = await rig.open(H=unary_unary(handler), E=unary_unary(echo))
    call = channel.unary_unary(path("H"))(b"")
    await soon(started.wait())
    call.cancel()
    await assert_cancelled(call)
    await soon(ended.wait())
    assert await soon(channel.unary_unary(path("E"))(b"on")) == b"on"


async def test_abort_racing_a_cancel_gives_one_of_both(rig: Rig) -> None:
    """Whoever comes first: the caller sees a cancelled call or the handler's code, and never hangs."""
    go = asyncio.Event()
    started: asyncio.Queue[None] = asyncio.Queue()

    async def handler(request: bytes, context: Context) -> bytes:
        started.put_nowait(None)
        await go.wait()
        await context.abort(StatusCode.ABORTED, "mine")

    method = await rig.unary_unary(handler)
    calls = [method(b"") for _ in range(40)]
    for _ in calls:
        await soon(started.get())
    go.set()
    for turn, call in enumerate(calls):
        if turn % 4 == 0:
            await asyncio.sleep(0)
        performed = call.cancel()
        code = await soon(call.code())
        assert code is (StatusCode.CANCELLED if performed else StatusCode.ABORTED)
        assert call.cancelled() == performed


async def test_done_callbacks_of_handler_fire_once_however_it_ends(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """After success, abort, exception and cancellation, each callback is called once, with the context."""
    caplog.set_level(logging.CRITICAL)
    started: asyncio.Queue[None] = asyncio.Queue()
    told: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()

    async def handler(request: bytes, context: Context) -> bytes:
        context.add_done_callback(lambda given: told.put_nowait(("first", given is context)))
        context.add_done_callback(lambda given: told.put_nowait(("second", given is context)))
        if request == b"wait":
            started.put_nowait(None)
            await asyncio.Event().wait()
        if request == b"abort":
            await context.abort(StatusCode.ABORTED, "")
        if request == b"raise":
            raise ValueError("boom")
        return b""

    method = await rig.unary_unary(handler)
    for request in (b"return", b"abort", b"raise", b"wait"):
        call = method(request)
        if request == b"wait":
            await soon(started.get())
            call.cancel()
        await soon(call.code())
        assert sorted([await soon(told.get()), await soon(told.get())]) == [("first", True), ("second", True)], request
    await asyncio.sleep(0.02)
    assert told.empty()


async def test_handler_that_swallows_its_cancellation_harms_nobody(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """It may go on; what it returns or writes is dropped."""
    caplog.set_level(logging.CRITICAL)
    started, ended = asyncio.Event(), asyncio.Event()

    async def stubborn(request: bytes, context: Context) -> AsyncIterator[bytes]:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        finally:
            ended.set()
        yield b"late"
        yield b"later"

    async def echo(request: bytes, context: Context) -> bytes:
        return request

    channel = await rig.open(S=unary_stream(stubborn), E=unary_unary(echo))
    call = channel.unary_stream(path("S"))(b"")
    await soon(started.wait())
    call.cancel()
    await assert_cancelled(call)
    await soon(ended.wait())
    assert await soon(channel.unary_unary(path("E"))(b"on")) == b"on"


@pytest.mark.parametrize("timeout", [None, 0.2], ids=["cancel", "deadline"])
async def test_context_of_a_cancelled_call_says_so(rig: Rig, timeout: float | None) -> None:
    """`done()` and `cancelled()` while the handler is unwound, in its callbacks, and for who kept the context.

    (grpcio says neither of a call that ended without its handler's doing.)
    """
    started, ended = asyncio.Event(), asyncio.Event()
    told: list[tuple[str, bool, bool]] = []
    kept: list[Context] = []

    async def handler(request: bytes, context: Context) -> bytes:
        def tell(when: str) -> None:
            told.append((when, context.done(), context.cancelled()))

        def on_done(_: Context) -> None:
            tell("callback")
            ended.set()

        kept.append(context)
        context.add_done_callback(on_done)
        tell("running")
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            tell("unwound")
            raise
        return b""

    call = (await rig.unary_unary(handler))(b"", timeout=timeout)
    await soon(started.wait())
    if timeout is None:
        call.cancel()
    await soon(ended.wait())
    is_over = rig.pair.server.name != GRPCIO
    assert told == [("running", False, False), ("unwound", is_over, is_over), ("callback", is_over, is_over)]
    assert (kept[0].done(), kept[0].cancelled()) == (is_over, is_over)


async def test_context_of_an_ended_call_is_done_not_cancelled(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """An answer, a refusal and an exception are no cancellations."""
    caplog.set_level(logging.CRITICAL)
    told: asyncio.Queue[tuple[bool, bool]] = asyncio.Queue()

    async def handler(request: bytes, context: Context) -> bytes:
        context.add_done_callback(lambda _: told.put_nowait((context.done(), context.cancelled())))
        if request == b"abort":
            await context.abort(StatusCode.ABORTED, "enough")
        if request == b"raise":
            raise ValueError("boom")
        return b""

    method = await rig.unary_unary(handler)
    for request in (b"return", b"abort", b"raise"):
        await soon(method(request).code())
        assert await soon(told.get()) == (True, False), request
