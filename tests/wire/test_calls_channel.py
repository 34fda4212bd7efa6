"""Channels: states, waiting for a server, reconnecting, and the end with and without grace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.wire.pairs import GRPCIO, Context, Rig, Served, collect, path, refusal, service, soon, unary_stream, unary_unary
from tests.wire.stage import KINDS, Stage, StatusCode, assert_cancelled, result

State = grpc.ChannelConnectivity
QUICK = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
]
"""Connects again soon."""


async def echo(request: bytes, context: Context) -> bytes:
    return request


async def twice(request: bytes, context: Context) -> AsyncIterator[bytes]:
    yield request
    yield request


async def serve(rig: Rig, port: int = 0) -> Served:
    return await rig.serve(service(E=unary_unary(echo), G=unary_stream(twice)), port=port)


async def vacant(rig: Rig) -> Served:
    """A port at which nobody listens any more."""
    served = await serve(rig)
    await served.server.stop(None)
    return served


async def until(channel: grpc.aio.Channel, *states: State) -> State:
    """Waits for one of these states."""
    while (state := channel.get_state()) not in states:
        await soon(channel.wait_for_state_change(state))
    return state


async def test_channel_is_idle_until_it_is_used(rig: Rig) -> None:
    """Asking for the state does not connect, unless it is asked to."""
    channel = rig.connect(await serve(rig))
    assert channel.get_state() is State.IDLE
    await asyncio.sleep(0.05)
    assert channel.get_state() is State.IDLE
    assert channel.get_state(try_to_connect=True) in (State.IDLE, State.CONNECTING)
    assert await until(channel, State.READY) is State.READY
    assert channel.get_state(try_to_connect=True) is State.READY


async def test_channel_with_a_call_becomes_ready(rig: Rig) -> None:
    """The first call connects; `channel_ready()` has nothing to wait for then."""
    channel = rig.connect(await serve(rig))
    assert await soon(channel.unary_unary(path("E"))(b"x")) == b"x"
    assert channel.get_state() is State.READY
    await soon(channel.channel_ready())


async def test_channel_ready_connects_and_waits(rig: Rig) -> None:
    """It waits as long as there is no server, and returns when there is one; several may wait."""
    served = await vacant(rig)
    channel = rig.connect(served, options=QUICK)
    waiting = [asyncio.ensure_future(channel.channel_ready()) for _ in range(3)]
    assert await until(channel, State.TRANSIENT_FAILURE)
    assert not any(waiter.done() for waiter in waiting)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(channel.channel_ready(), 0.05)
    await serve(rig, served.port)
    await soon(asyncio.gather(*waiting))
    assert channel.get_state() is State.READY


async def test_channel_whose_server_stops_is_idle_and_returns(rig: Rig) -> None:
    """A lost connection is no failure yet; the next call connects again, to a server that may be another."""
    served = await serve(rig)
    channel = rig.connect(served, options=QUICK)
    method = channel.unary_unary(path("E"))
    for _ in range(3):
        assert await soon(method(b"x", wait_for_ready=True)) == b"x"
        waiting = asyncio.ensure_future(channel.wait_for_state_change(State.READY))
        await served.server.stop(None)
        await soon(waiting)
        assert channel.get_state() is State.IDLE
        served = await serve(rig, served.port)
    assert await soon(method(b"without waiting")) == b"without waiting"


async def test_call_without_server_is_unavailable_at_once(rig: Rig) -> None:
    """All kinds, from the first on; also with `wait_for_ready=False`, and with a long deadline."""
    channel = rig.connect(await vacant(rig), options=QUICK)
    before = time.monotonic()
    for more in ({}, {"wait_for_ready": False}, {"timeout": 60}):
        error = await refusal(channel.unary_unary(path("E"))(b"x", **more))
        assert error.code() is StatusCode.UNAVAILABLE
        assert "127.0.0.1" in error.details()
        assert (await refusal(collect(channel.unary_stream(path("G"))(b"x", **more)))).code() is StatusCode.UNAVAILABLE
        assert (await refusal(channel.stream_unary(path("E"))([b"x"], **more))).code() is StatusCode.UNAVAILABLE
        assert (await refusal(collect(channel.stream_stream(path("E"))([b"x"], **more)))).code() is StatusCode.UNAVAILABLE
    assert time.monotonic() - before < 5
    assert channel.get_state() in (State.TRANSIENT_FAILURE, State.CONNECTING)


async def test_call_without_server_recovers_when_it_comes(rig: Rig) -> None:
    """Failures in a row do not keep the channel from a server that starts at last."""
    served = await vacant(rig)
    channel = rig.connect(served, options=QUICK)
    method = channel.unary_unary(path("E"))
    for _ in range(5):
        assert (await refusal(method(b"x"))).code() is StatusCode.UNAVAILABLE
    await serve(rig, served.port)
    await until(channel, State.READY)
    assert await soon(method(b"x")) == b"x"


async def test_call_that_waits_for_ready_is_served_later(rig: Rig) -> None:
    """All kinds wait; the first server that comes answers them."""
    served = await vacant(rig)
    channel = rig.connect(served, options=QUICK)
    calls: list[Any] = [
        asyncio.ensure_future(result(call))
        for call in (
            channel.unary_unary(path("E"))(b"x", wait_for_ready=True),
            channel.unary_stream(path("G"))(b"x", wait_for_ready=True),
            channel.stream_unary(path("E"))([b"x"], wait_for_ready=True),
            channel.stream_stream(path("G"))([b"x"], wait_for_ready=True),
        )
    ]
    assert (await refusal(channel.unary_unary(path("E"))(b"x"))).code() is StatusCode.UNAVAILABLE
    await until(channel, State.TRANSIENT_FAILURE)
    assert not any(call.done() for call in calls)
    await serve(rig, served.port)
    assert await soon(asyncio.gather(*calls)) == [b"x"] * 4


async def test_call_that_waits_for_ready_keeps_its_deadline(rig: Rig) -> None:
    """It may wait, not for ever; and it may be cancelled while it waits. (A write does not notice that on grpcio.)"""
    channel = rig.connect(await vacant(rig), options=QUICK)
    method = channel.unary_unary(path("E"))
    patient = method(b"x", wait_for_ready=True)
    streaming = channel.stream_stream(path("G"))(wait_for_ready=True)
    writing = asyncio.ensure_future(streaming.write(b"x"))
    error = await refusal(method(b"x", wait_for_ready=True, timeout=0.2))
    assert error.code() is StatusCode.DEADLINE_EXCEEDED
    assert not patient.done()
    for call in (patient, streaming):
        assert call.cancel()
        await assert_cancelled(call)
    if rig.pair.client.name == GRPCIO:
        writing.cancel()
    with pytest.raises((asyncio.CancelledError, asyncio.InvalidStateError, grpc.aio.AioRpcError)):
        await soon(writing)


async def test_close_cancels_calls_under_way(rig: Rig) -> None:
    """All kinds, those too that wait for a server: CANCELLED here, CancelledError in the handlers."""
    stage = Stage()
    begin = await stage.open(rig)
    calls = [begin[kind]() for kind in KINDS]
    assert {await soon(stage.started.get()) for _ in KINDS} == set(KINDS)
    channel = rig.channels[-1]
    reading = asyncio.ensure_future(result(calls[0]))
    await asyncio.sleep(0)
    await soon(channel.close())
    with pytest.raises(asyncio.CancelledError):
        await soon(reading)
    for call in calls:
        await assert_cancelled(call)
    for _ in KINDS:
        assert await soon(stage.ended.get()) == "cancelled"

    waiting = rig.connect(await vacant(rig), options=QUICK)
    call = waiting.unary_unary(path("E"))(b"x", wait_for_ready=True)
    await until(waiting, State.TRANSIENT_FAILURE)
    await soon(waiting.close())
    await assert_cancelled(call)


async def test_close_leaves_a_channel_of_no_use(rig: Rig) -> None:
    """Calls, waiting and connecting are mistakes then; its state is SHUTDOWN; closing it again is harmless."""
    channel = rig.connect(await serve(rig))
    method = channel.unary_unary(path("E"))
    assert await soon(method(b"x")) == b"x"
    waiting = asyncio.ensure_future(channel.wait_for_state_change(State.READY))
    await asyncio.sleep(0)
    await soon(channel.close())
    assert channel.get_state() is State.SHUTDOWN
    assert channel.get_state(try_to_connect=True) is State.SHUTDOWN
    await soon(asyncio.wait([waiting]))
    for make in (
        lambda: method(b"x"),
        lambda: channel.unary_stream(path("G"))(b"x"),
        lambda: channel.stream_unary(path("E"))(),
        lambda: channel.stream_stream(path("G"))(),
    ):
        with pytest.raises(grpc.aio.UsageError):
            await soon(result(make()))
    with pytest.raises(grpc.aio.UsageError):
        await soon(channel.channel_ready())
    with pytest.raises(grpc.aio.UsageError):
        await soon(channel.wait_for_state_change(State.SHUTDOWN))
    await soon(channel.close())
    await soon(channel.close(1))


async def test_close_of_an_unused_channel_is_quick(rig: Rig) -> None:
    """Nothing was opened, nothing has to be waited for; `async with` closes, too."""
    served = await serve(rig)
    unused = rig.connect(served)
    await soon(unused.close(10), 1)
    async with rig.connect(served) as channel:
        assert await soon(channel.unary_unary(path("E"))(b"x")) == b"x"
    assert channel.get_state() is State.SHUTDOWN


async def test_close_with_grace_waits_for_calls(rig: Rig) -> None:
    """Those that end in time are answered; new ones are refused at once."""
    started, go = asyncio.Event(), asyncio.Event()

    async def patient(request: bytes, context: Context) -> bytes:
        started.set()
        await go.wait()
        return request

    channel = await rig.open(P=unary_unary(patient))
    method = channel.unary_unary(path("P"))
    call = method(b"x")
    await soon(started.wait())
    closing = asyncio.ensure_future(channel.close(20))
    await asyncio.sleep(0)
    with pytest.raises(grpc.aio.UsageError):
        await soon(method(b"new"))
    assert not closing.done()
    go.set()
    await soon(closing)
    assert await soon(call) == b"x"
    assert await call.code() is StatusCode.OK
    assert channel.get_state() is State.SHUTDOWN


async def test_close_with_grace_cancels_what_takes_longer(rig: Rig) -> None:
    """The grace is kept, and not exceeded."""
    stage = Stage()
    begin = await stage.open(rig)
    calls = [begin[kind]() for kind in KINDS]
    for _ in KINDS:
        await soon(stage.started.get())
    before = time.monotonic()
    await soon(rig.channels[-1].close(0.2))
    assert 0.19 < time.monotonic() - before < 2
    for call in calls:
        await assert_cancelled(call)
        assert await soon(stage.ended.get()) == "cancelled"


async def test_close_with_negative_grace_is_a_value_error(rig: Rig) -> None:
    """The channel stays as it was."""
    channel = rig.connect(await serve(rig))
    with pytest.raises(ValueError, match="grace"):
        await channel.close(-1)
    assert await soon(channel.unary_unary(path("E"))(b"x")) == b"x"
