"""How calls end that client interceptors stand around: errors, deadlines, cancellation in every state, callbacks."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from tests.wire.interceptors import KINDS, Continuation, Service, answer, begin, of_all_kinds
from tests.wire.pairs import Context, Rig, path, refusal, soon, stream_stream, stream_unary, unary_stream, unary_unary
from tests.wire.stage import Stage, result

StatusCode = grpc.StatusCode
Details = grpc.aio.ClientCallDetails
STAGED = {"U": "unary_unary", "G": "unary_stream", "C": "stream_unary", "B": "stream_stream"}


async def passing(continuation: Continuation, details: Details, request: Any) -> Any:
    return await continuation(details, request)


async def open_stage(rig: Rig, *interceptors: Any) -> tuple[Stage, Any]:
    """Handlers that wait, behind these interceptors."""
    stage = Stage()
    methods = {
        "unary_unary": unary_unary(stage.unary_unary),
        "unary_stream": unary_stream(stage.unary_stream),
        "stream_unary": stream_unary(stage.stream_unary),
        "stream_stream": stream_stream(stage.stream_stream),
    }
    return stage, await Service().open(rig, *interceptors, **methods)


async def test_interceptors_that_fail_raise_their_own_error(rig: Rig) -> None:
    """An exception that is none of gRPC's comes out where the answer is awaited."""

    async def fail(continuation: Continuation, details: Details, request: Any) -> Any:
        raise KeyError("mine")

    channel = await Service().open(rig, *of_all_kinds(fail))
    for kind in KINDS:
        call = begin(channel, kind)
        with pytest.raises(KeyError, match="mine"):
            await soon(answer(call))
        assert call.done()
        assert not call.cancelled()


async def test_interceptors_see_errors_of_the_server(rig: Rig) -> None:
    """They are raised where the interceptor awaits the answer, and may be caught; else its caller gets them."""
    told: list[Any] = []

    async def abort(request: bytes, context: Context) -> bytes:
        await context.abort(StatusCode.NOT_FOUND, "gone", (("late", "1"),))

    async def tell(continuation: Continuation, details: Details, request: Any) -> Any:
        call = await continuation(details, request)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            told.append((error.code(), error.details(), tuple(error.trailing_metadata())))
            if request == b"default":
                return b"default answer"
            raise

    channel = await Service().open(rig, KINDS["U"](tell), Abort=unary_unary(abort))
    method = channel.unary_unary(path("Abort"))
    assert await soon(method(b"default")) == b"default answer"
    call = method(b"raise")
    error = await refusal(call)
    assert (error.code(), error.details(), error.trailing_metadata()) == (StatusCode.NOT_FOUND, "gone", (("late", "1"),))
    assert (await call.code(), await call.details()) == (StatusCode.NOT_FOUND, "gone")
    assert told == [(StatusCode.NOT_FOUND, "gone", (("late", "1"),))] * 2


async def test_errors_behind_interceptors_reach_the_caller(rig: Rig) -> None:
    """A call that is passed on untouched ends as it would without."""

    async def abort(request: bytes, context: Context) -> bytes:
        await context.send_initial_metadata((("early", "1"),))
        await context.abort(StatusCode.NOT_FOUND, "gone", (("late", "1"),))

    channel = await Service().open(rig, *of_all_kinds(passing), Abort=unary_unary(abort))
    call = begin(channel, "U", "Abort")
    error = await refusal(call)
    assert (error.code(), error.details()) == (StatusCode.NOT_FOUND, "gone")
    assert (await call.initial_metadata(), await call.trailing_metadata()) == ((("early", "1"),), (("late", "1"),))
    for kind in KINDS:
        code = (await refusal(answer(begin(channel, kind, "Unknown")))).code()
        assert code in (StatusCode.UNIMPLEMENTED, StatusCode.INTERNAL)


async def test_deadline_of_intercepted_calls_ends_them(rig: Rig) -> None:
    """The time that the interceptor gave is kept, at both sides, for all kinds."""

    async def hurry(continuation: Continuation, details: Details, request: Any) -> Any:
        return await continuation(details._replace(timeout=0.2), request)

    stage, channel = await open_stage(rig, *of_all_kinds(hurry))
    calls = [begin(channel, kind, STAGED[kind]) for kind in KINDS]
    for call in calls:
        assert (await refusal(answer(call))).code() is StatusCode.DEADLINE_EXCEEDED
        assert await call.code() is StatusCode.DEADLINE_EXCEEDED
    assert [await soon(stage.ended.get()) for _ in KINDS] == ["cancelled"] * 4


async def assert_cancelled(call: Any) -> None:
    with pytest.raises(asyncio.CancelledError):
        await soon(answer(call))
    assert call.done()
    assert call.cancelled()
    assert await soon(call.code()) is StatusCode.CANCELLED
    assert await soon(call.details()) == "Locally cancelled by application!"
    assert not call.cancel()


@pytest.mark.parametrize("kind", KINDS)
async def test_cancel_before_interceptors_ran_ends_the_call(rig: Rig, kind: str) -> None:
    """In the turn it was made in: no interceptor is asked, nothing is sent."""
    told: list[Any] = []

    async def tell(continuation: Continuation, details: Details, request: Any) -> Any:
        told.append(details)
        return await continuation(details, request)

    service = Service()
    channel = await service.open(rig, *of_all_kinds(tell))
    call = begin(channel, kind)
    assert call.cancel()
    await assert_cancelled(call)
    assert told == []
    assert service.seen == []


@pytest.mark.parametrize("kind", KINDS)
async def test_cancel_while_an_interceptor_waits_cancels_it(rig: Rig, kind: str) -> None:
    """CancelledError in the interceptor, which has not begun the call."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def wait(continuation: Continuation, details: Details, request: Any) -> Any:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    channel = await Service().open(rig, *of_all_kinds(wait))
    call = begin(channel, kind)
    await soon(started.wait())
    assert not call.done()
    assert call.cancel()
    await soon(ended.wait())
    await assert_cancelled(call)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("waits", [False, True], ids=["passing", "awaiting"])
async def test_cancel_of_intercepted_call_reaches_the_handler(rig: Rig, kind: str, waits: bool) -> None:
    """Whether the interceptor has handed the call out or awaits it itself."""
    waiting = asyncio.Event()

    async def intercept(continuation: Continuation, details: Details, request: Any) -> Any:
        call = await continuation(details, request)
        if not waits:
            waiting.set()
            return call
        if hasattr(call, "read"):
            assert await call.read() == b"first"
        waiting.set()
        return await result(call)

    stage, channel = await open_stage(rig, *of_all_kinds(intercept))
    call = begin(channel, kind, STAGED[kind])
    assert await soon(stage.started.get()) == STAGED[kind]
    await soon(waiting.wait())
    await asyncio.sleep(0)
    assert call.cancel()
    await assert_cancelled(call)
    assert await soon(stage.ended.get()) == "cancelled"


async def test_done_callbacks_of_intercepted_calls_fire_once(rig: Rig) -> None:
    """With the call that the caller holds, whenever they were added."""
    told: list[Any] = []
    channel = await Service().open(rig, *of_all_kinds(passing))
    for kind in KINDS:
        call = begin(channel, kind)
        call.add_done_callback(lambda given, call=call: told.append(("early", given is call, given.done())))
        await soon(answer(call))
        await soon(call.code())
        await asyncio.sleep(0)
        call.add_done_callback(lambda given, call=call: told.append(("late", given is call, given.done())))
        await asyncio.sleep(0)
        assert told == [("early", True, True), ("late", True, True)], kind
        told.clear()


async def test_done_callbacks_of_refusing_interceptors_fire_too(rig: Rig) -> None:
    """A call that never began is done nevertheless."""
    told: list[Any] = []

    async def refuse(continuation: Continuation, details: Details, request: Any) -> Any:
        raise grpc.aio.AioRpcError(StatusCode.ABORTED, grpc.aio.Metadata(), grpc.aio.Metadata(), details="no")

    channel = await Service().open(rig, *of_all_kinds(refuse))
    for kind in KINDS:
        call = begin(channel, kind)
        call.add_done_callback(lambda given: told.append(given.done()))
        await refusal(answer(call))
        await asyncio.sleep(0)
        assert told == [True], kind
        told.clear()


async def test_intercepted_calls_have_the_interfaces_of_calls(rig: Rig) -> None:
    """What asks by isinstance, and waits for the connection, notices nothing."""
    interfaces = {
        "U": grpc.aio.UnaryUnaryCall,
        "G": grpc.aio.UnaryStreamCall,
        "C": grpc.aio.StreamUnaryCall,
        "B": grpc.aio.StreamStreamCall,
    }
    told: list[Any] = []

    async def tell(continuation: Continuation, details: Details, request: Any) -> Any:
        call = await continuation(details, request)
        told.append(call)
        return call

    channel = await Service().open(rig, *of_all_kinds(tell))
    for kind, interface in interfaces.items():
        call = begin(channel, kind)
        assert isinstance(call, interface)
        await soon(call.wait_for_connection())
        assert isinstance(told.pop(), interface)
        await soon(answer(call))
