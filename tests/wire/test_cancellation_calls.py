"""Cancellation by the caller, in every state of a call: both sides end, once, and the connection goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.wire.pairs import GRPCIO, Context, Rig, soon
from tests.wire.stage import KINDS, Stage, StatusCode, assert_cancelled, result


@pytest.mark.parametrize("kind", KINDS)
async def test_cancel_before_anything_is_sent_ends_the_call(rig: Rig, kind: str) -> None:
    """A call that is cancelled in the turn it was made in is cancelled for the caller, and leaves the server unhurt."""
    calls = await Stage().open(rig)
    call = calls[kind]()
    assert call.cancel()
    await assert_cancelled(call)
    assert await soon(calls["echo"](b"on")) == b"on"


@pytest.mark.parametrize("kind", KINDS)
async def test_cancel_while_the_handler_waits_ends_both_sides(rig: Rig, kind: str) -> None:
    """CancelledError for the one who awaits it and in the handler."""
    stage = Stage()
    calls = await stage.open(rig)
    call = calls[kind]()
    assert await soon(stage.started.get()) == kind
    assert not call.done()
    assert call.cancel()
    await assert_cancelled(call)
    assert await soon(stage.ended.get()) == "cancelled"
    assert await soon(calls["echo"](b"on")) == b"on"


@pytest.mark.parametrize("kind", KINDS)
async def test_cancel_of_the_awaiting_task_cancels_the_call(rig: Rig, kind: str) -> None:
    """asyncio's own cancellation of who waits for an answer, or for a message, reaches the handler."""
    stage = Stage()
    calls = await stage.open(rig)
    call = calls[kind]()
    if hasattr(call, "read"):
        assert await soon(call.read()) == b"first"
    task = asyncio.ensure_future(result(call))
    assert await soon(stage.started.get()) == kind
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    await assert_cancelled(call)
    assert await soon(stage.ended.get()) == "cancelled"


async def test_time_out_of_asyncio_cancels_the_call(rig: Rig) -> None:
    """`asyncio.wait_for` and `asyncio.timeout` are as good as a deadline, but the code is CANCELLED."""
    stage = Stage()
    calls = await stage.open(rig)
    call = calls["unary_unary"]()
    await soon(stage.started.get())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call, 0.01)
    await assert_cancelled(call)
    assert await soon(stage.ended.get()) == "cancelled"


async def test_cancel_of_iterating_task_cancels_the_stream(rig: Rig) -> None:
    """A consumer of `async for` that is cancelled where it waits for the next message takes its stream along."""
    stage = Stage()
    calls = await stage.open(rig)
    call = calls["unary_stream"]()
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def consume() -> None:
        async for message in call:
            got.put_nowait(message)

    task = asyncio.create_task(consume())
    await soon(stage.started.get())
    assert await soon(got.get()) == b"first"
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert await soon(stage.ended.get()) == "cancelled"
    assert call.cancelled()
    assert await call.code() is StatusCode.CANCELLED


async def test_cancel_twice_performs_once(rig: Rig) -> None:
    """The second `cancel()` says that there was nothing to do; callbacks are called once."""
    stage = Stage()
    calls = await stage.open(rig)
    call = calls["unary_unary"]()
    told: list[Any] = []
    call.add_done_callback(lambda call: told.append((call.done(), call.cancelled())))
    call.add_done_callback(lambda call: told.append("second"))
    await soon(stage.started.get())
    assert [call.cancel(), call.cancel(), call.cancel()] == [True, False, False]
    await assert_cancelled(call)
    await asyncio.sleep(0)
    assert told == [(True, True), "second"]
    assert await soon(stage.ended.get()) == "cancelled"
    assert stage.ended.empty()


async def test_cancel_after_completion_changes_nothing(rig: Rig) -> None:
    """What is done is done: `cancel()` is False, code and answer stay, callbacks that come late are called at once."""
    calls = await Stage().open(rig)
    call = calls["echo"](b"x")
    told: list[str] = []
    call.add_done_callback(lambda call: told.append("early"))
    assert await soon(call) == b"x"
    assert not call.cancel()
    assert not call.cancelled()
    assert await call.code() is StatusCode.OK
    assert await soon(call) == b"x"
    call.add_done_callback(lambda call: told.append("late"))
    await asyncio.sleep(0)
    assert told == ["early", "late"]


async def test_cancel_after_an_error_changes_nothing(rig: Rig) -> None:
    """A failed call keeps its code."""

    async def handler(request: bytes, context: Context) -> bytes:
        await context.abort(StatusCode.ABORTED, "failed")

    call = (await rig.unary_unary(handler))(b"")
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError, match="failed"):
            await soon(call)
        assert not call.cancel()
        assert not call.cancelled()
    assert await call.code() is StatusCode.ABORTED


async def test_cancel_with_request_iterator_ends_the_iterator(rig: Rig) -> None:
    """The caller's own generator is cancelled where it waits."""
    stage, closed = Stage(), asyncio.Event()
    calls = await stage.open(rig)

    async def requests() -> AsyncIterator[bytes]:
        try:
            yield b"1"
            await asyncio.Event().wait()
        finally:
            closed.set()

    call = calls["stream_unary"](requests())
    await soon(stage.started.get())
    call.cancel()
    await assert_cancelled(call)
    await soon(closed.wait())
    assert await soon(stage.ended.get()) == "cancelled"


async def test_cancel_while_a_read_waits_wakes_it(rig: Rig) -> None:
    """Another task cancels the call that this one reads from."""
    stage = Stage()
    calls = await stage.open(rig)
    for kind in ("unary_stream", "stream_stream"):
        call = calls[kind]()
        assert await soon(call.read()) == b"first"
        reading = asyncio.create_task(call.read())
        await soon(stage.started.get())
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(reading)
        await assert_cancelled(call)


async def test_cancel_while_a_write_waits_wakes_it(rig: Rig) -> None:
    """A write that waits for a handler which reads nothing ends with its call."""
    stage = Stage()
    calls = await stage.open(rig)
    call = calls["stream_unary"]()

    async def write() -> None:
        while True:
            await call.write(b"x" * 100_000)

    writing = asyncio.create_task(write())
    await soon(stage.started.get())
    done, _ = await asyncio.wait([writing], timeout=0.1)
    assert not done
    assert call.cancel()
    with pytest.raises((asyncio.CancelledError, asyncio.InvalidStateError, grpc.aio.AioRpcError)):
        await soon(writing)
    if rig.pair.client.name == GRPCIO:  # (It lets the failed write turn the code into INTERNAL.)
        with pytest.raises(asyncio.CancelledError):
            await soon(call)
    else:
        await assert_cancelled(call)
    assert await soon(stage.ended.get()) == "cancelled"


async def test_many_cancelled_calls_leave_the_connection_well(rig: Rig) -> None:
    """Two hundred calls, cancelled in all states, and every other call is answered."""
    stage = Stage()
    calls = await stage.open(rig)
    answered = []
    for turn in range(50):
        for kind in KINDS:
            call = calls[kind]()
            for _ in range(turn % 5):
                await asyncio.sleep(0)
            call.cancel()
        answered.append(calls["echo"](str(turn).encode()))
    assert await soon(asyncio.gather(*answered)) == [str(turn).encode() for turn in range(50)]
