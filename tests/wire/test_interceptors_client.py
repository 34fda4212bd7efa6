"""Client interceptors: in order, around calls of their own kind; they may change the call, answer it, and begin it again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.wire.interceptors import KINDS, WANTED, Continuation, Service, answer, begin, of_all_kinds
from tests.wire.pairs import Context, Rig, collect, path, refusal, soon, unary_stream, unary_unary

StatusCode = grpc.StatusCode
Details = grpc.aio.ClientCallDetails


def name_of(details: Details) -> str:
    """The method of a call; grpcio tells it as bytes."""
    method: Any = details.method
    return method.decode() if isinstance(method, bytes) else method


async def test_interceptors_of_a_kind_see_calls_of_this_kind(rig: Rig) -> None:
    """The first given is the outermost; what each sees is what its caller asked for."""
    told: list[Any] = []

    def named(name: str) -> Any:
        async def intercept(continuation: Continuation, details: Details, request: Any) -> Any:
            told.append((name, name_of(details), details.timeout, dict(details.metadata or ()), details.wait_for_ready))
            call = await continuation(details, request)
            told.append((name, "after"))
            return call

        return intercept

    interceptors = [kind(named(f"{place} {key}")) for place in ("outer", "inner") for key, kind in KINDS.items()]
    channel = await Service().open(rig, *interceptors)
    for kind in KINDS:
        call = begin(channel, kind, timeout=20, metadata=(("mine", "1"),), wait_for_ready=True)
        assert await soon(answer(call)) == WANTED[kind]
        assert told == [
            (f"outer {kind}", path(kind), 20, {"mine": "1"}, True),
            (f"inner {kind}", path(kind), 20, {"mine": "1"}, True),
            (f"inner {kind}", "after"),
            (f"outer {kind}", "after"),
        ]
        told.clear()


async def test_interceptors_of_one_kind_leave_others_alone(rig: Rig) -> None:
    """A channel whose interceptors are for unary calls has plain streams."""
    told: list[str] = []

    async def intercept(continuation: Continuation, details: Details, request: Any) -> Any:
        told.append(name_of(details))
        return await continuation(details, request)

    channel = await Service().open(rig, KINDS["U"](intercept))
    for kind in KINDS:
        assert await soon(answer(begin(channel, kind))) == WANTED[kind]
    assert told == [path("U")]


async def test_interceptors_that_are_none_raise_value_error(rig: Rig) -> None:
    """A channel takes nothing but interceptors for clients."""
    for wrong in (object(), print):
        with pytest.raises(ValueError, match="nterceptor"):
            rig.connect("127.0.0.1:1", interceptors=[wrong])


@pytest.mark.parametrize("kind", KINDS)
async def test_interceptors_that_change_details_change_the_call(rig: Rig, kind: str) -> None:
    """Metadata and time-out as the interceptor gives them, not as the caller did."""

    async def intercept(continuation: Continuation, details: Details, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*((key, value) for key, value in details.metadata or () if key != "removed"))
        metadata.add("added", "1")
        return await continuation(details._replace(metadata=metadata, timeout=50), request)

    service = Service()
    channel = await service.open(rig, KINDS[kind](intercept))
    assert await soon(answer(begin(channel, kind, metadata=(("kept", "1"), ("removed", "1"))))) == WANTED[kind]
    assert await soon(answer(begin(channel, kind, timeout=1000))) == WANTED[kind]
    assert {key: value for key, value in service.seen[0].items() if key != "user-agent"} == {"kept": "1", "added": "1"}
    assert service.seen[1]["added"] == "1"
    for left in service.left:
        assert left is not None
        assert 40 < left <= 51


async def test_interceptors_may_give_details_of_their_own(rig: Rig) -> None:
    """A ClientCallDetails made anew; another method of the server; another request."""

    async def intercept(continuation: Continuation, details: Details, request: Any) -> Any:
        assert request == b"x"
        return await continuation(Details(path("Other").encode(), None, grpc.aio.Metadata(), None, None), b"other request")

    async def other(request: bytes, context: Context) -> bytes:
        return request + b" at other"

    channel = await Service().open(rig, KINDS["U"](intercept), Other=unary_unary(other))
    assert await soon(begin(channel, "U")) == b"other request at other"


async def test_interceptors_work_on_messages_not_on_bytes(rig: Rig) -> None:
    """They stand before the serializer and behind the deserializer."""

    async def intercept(continuation: Continuation, details: Details, request: Any) -> Any:
        assert request == 5
        call = await continuation(details, request + 1)
        response = await call
        assert response == 6
        return response * 2

    channel = await Service().open(rig, KINDS["U"](intercept))
    assert await soon(channel.unary_unary(path("U"), lambda number: b"%d" % number, int)(5)) == 12


async def test_interceptors_that_answer_themselves_call_nobody(rig: Rig) -> None:
    """A plain response in the place of the call: OK, no metadata, and nothing was sent."""

    async def intercept(continuation: Continuation, details: Details, request: Any) -> Any:
        return b"cached"

    service = Service()
    channel = await service.open(rig, KINDS["U"](intercept))
    call = begin(channel, "U")
    assert [await soon(call), await soon(call)] == [b"cached", b"cached"]
    assert (await call.code(), await call.details()) == (StatusCode.OK, "")
    assert not await call.initial_metadata()
    assert not await call.trailing_metadata()
    assert call.done()
    assert not call.cancelled()
    assert not call.cancel()
    assert service.seen == []


async def test_interceptors_that_change_answers_keep_the_status(rig: Rig) -> None:
    """The response is the interceptor's; an outer one sees what the inner one gave."""

    def append(what: bytes) -> Any:
        async def intercept(continuation: Continuation, details: Details, request: Any) -> Any:
            return await (await continuation(details, request)) + what

        return intercept

    channel = await Service().open(rig, KINDS["U"](append(b" outer")), KINDS["U"](append(b" inner")))
    call = begin(channel, "U")
    assert await soon(call) == b"x inner outer"
    assert await call.code() is StatusCode.OK


@pytest.mark.parametrize("kind", ["G", "B"])
@pytest.mark.parametrize("style", ["iterate", "read"])
async def test_interceptors_that_change_streams_are_read_through(rig: Rig, kind: str, style: str) -> None:
    """An async iterator in the place of the call is what its caller reads, by either style; the call tells the status."""

    async def intercept(continuation: Continuation, details: Details, request: Any) -> Any:
        call = await continuation(details, request)

        async def changed() -> AsyncIterator[bytes]:
            async for message in call:
                yield message + b"!"
            yield b"more"

        return changed()

    channel = await Service().open(rig, KINDS[kind](intercept))
    call, got = begin(channel, kind), []
    if style == "iterate":
        got = await soon(collect(call))
    else:
        while (message := await soon(call.read())) is not grpc.aio.EOF:
            got.append(message)
        assert await soon(call.read()) is grpc.aio.EOF
    assert got == [message + b"!" for message in WANTED[kind]] + [b"more"]
    assert await soon(call.code()) is StatusCode.OK
    assert not call.cancelled()


@pytest.mark.parametrize("kind", ["C", "B"])
async def test_interceptors_that_change_requests_are_sent_through(rig: Rig, kind: str) -> None:
    """The iterator of requests, also where the caller writes by hand, passes the interceptor."""

    async def intercept(continuation: Continuation, details: Details, requests: Any) -> Any:
        async def changed() -> AsyncIterator[bytes]:
            if hasattr(requests, "__aiter__"):
                async for request in requests:
                    yield request + b"!"
            else:
                for request in requests:
                    yield request + b"!"

        return await continuation(details, changed())

    channel = await Service().open(rig, KINDS[kind](intercept))
    method = channel.stream_unary(path("C")) if kind == "C" else channel.stream_stream(path("B"))
    by_hand, by_iterator = method(), method([b"1", b"2"])
    for request in (b"1", b"2"):
        await soon(by_hand.write(request))
    await soon(by_hand.done_writing())
    wanted: Any = b"1!2!" if kind == "C" else [b"1!", b"2!"]
    assert await soon(answer(by_hand)) == wanted
    assert await soon(answer(by_iterator)) == wanted
    with pytest.raises(grpc.aio.UsageError):
        await by_iterator.write(b"3")


@pytest.mark.parametrize("kind", ["C", "B"])
async def test_interceptors_leave_calls_written_by_hand_as_they_are(rig: Rig, kind: str) -> None:
    """Messages go when they are written, the end when it is said, and answers of two streams come in between."""

    async def intercept(continuation: Continuation, details: Details, requests: Any) -> Any:
        return await continuation(details, requests)

    channel = await Service().open(rig, KINDS[kind](intercept))
    if kind == "C":
        call = channel.stream_unary(path("C"))()
        await soon(call.write(b"1"))
        await soon(call.write(b"2"))
        await soon(call.done_writing())
        assert await soon(call) == b"12"
    else:
        call = channel.stream_stream(path("B"))()
        for number in range(20):
            await soon(call.write(b"%d" % number))
            assert await soon(call.read()) == b"%d" % number
        await soon(call.done_writing())
        assert await soon(call.read()) is grpc.aio.EOF
    assert await soon(call.code()) is StatusCode.OK
    with pytest.raises(asyncio.InvalidStateError):
        await soon(call.write(b"late"))


async def test_interceptors_that_retry_begin_the_call_again(rig: Rig) -> None:
    """The continuation may be asked as often as it takes."""
    attempts: list[int] = []

    async def flaky(request: bytes, context: Context) -> bytes:
        attempts.append(len(attempts))
        if len(attempts) < 3:
            await context.abort(StatusCode.UNAVAILABLE, "not yet")
        return b"at last"

    async def flaky_stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield await flaky(request, context)

    async def retry(continuation: Continuation, details: Details, request: Any) -> Any:
        for _ in range(5):
            call = await continuation(details, request)
            if await call.code() is not StatusCode.UNAVAILABLE:
                break
        return call

    async def retry_stream(continuation: Continuation, details: Details, request: Any) -> Any:
        for _ in range(5):
            call = await continuation(details, request)
            try:
                first = await call.read()
            except grpc.aio.AioRpcError:
                continue

            async def rest() -> AsyncIterator[bytes]:
                yield first  # noqa: B023
                while (message := await call.read()) is not grpc.aio.EOF:  # noqa: B023
                    yield message

            return rest()
        raise AssertionError("five attempts failed")

    methods = {"Flaky": unary_unary(flaky), "FlakyStream": unary_stream(flaky_stream)}
    channel = await Service().open(rig, KINDS["U"](retry), KINDS["G"](retry_stream), **methods)
    call = begin(channel, "U", "Flaky")
    assert await soon(call) == b"at last"
    assert await call.code() is StatusCode.OK
    assert len(attempts) == 3
    attempts.clear()
    assert await soon(collect(begin(channel, "G", "FlakyStream"))) == [b"at last"]
    assert len(attempts) == 3


async def test_interceptors_of_all_kinds_run_once_for_each_call(rig: Rig) -> None:
    """However often the call is asked."""
    told: list[str] = []

    async def intercept(continuation: Continuation, details: Details, request: Any) -> Any:
        told.append(name_of(details))
        return await continuation(details, request)

    channel = await Service().open(rig, *of_all_kinds(intercept))
    for kind in KINDS:
        call = begin(channel, kind)
        await soon(asyncio.gather(call.code(), answer(call), call.details(), call.trailing_metadata(), call.initial_metadata()))
        assert told == [path(kind)]
        told.clear()


async def test_interceptors_that_refuse_raise_at_the_caller(rig: Rig) -> None:
    """An AioRpcError is how the call ended; the server saw nothing."""

    async def refuse(continuation: Continuation, details: Details, request: Any) -> Any:
        raise grpc.aio.AioRpcError(
            StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(("a", "1")), grpc.aio.Metadata(("b", "2")), details="too many"
        )

    service = Service()
    channel = await service.open(rig, *of_all_kinds(refuse))
    for kind in KINDS:
        call = begin(channel, kind)
        error = await refusal(answer(call))
        assert (error.code(), error.details()) == (StatusCode.RESOURCE_EXHAUSTED, "too many")
        assert (await call.code(), await call.details()) == (StatusCode.RESOURCE_EXHAUSTED, "too many")
        assert (await call.initial_metadata(), await call.trailing_metadata()) == ((("a", "1"),), (("b", "2"),))
        assert call.done()
        assert not call.cancelled()
        assert not call.cancel()
    assert service.seen == []
