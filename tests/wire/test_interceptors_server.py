"""Server interceptors: asked in order, for every kind of call, each may change, replace or refuse."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
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
    soon,
    stream_stream,
    stream_unary,
    unary_stream,
    unary_unary,
)

StatusCode = grpc.StatusCode
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]
KINDS = ["U", "G", "C", "B"]


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


METHODS: dict[str, Any] = {
    "U": unary_unary(echo),
    "G": unary_stream(twice),
    "C": stream_unary(join),
    "B": stream_stream(copy),
}
WANTED: dict[str, Any] = {"U": b"x", "G": [b"x", b"x"], "C": b"x", "B": [b"x"]}


def call(channel: Any, kind: str, name: str | None = None, **more: Any) -> Awaitable[Any]:
    """Calls a method of a kind with one request."""
    method = path(name or kind)
    if kind == "U":
        answer: Awaitable[Any] = channel.unary_unary(method)(b"x", **more)
    elif kind == "G":
        answer = collect(channel.unary_stream(method)(b"x", **more))
    elif kind == "C":
        answer = channel.stream_unary(method)([b"x"], **more)
    else:
        answer = collect(channel.stream_stream(method)([b"x"], **more))
    return answer


class By(grpc.aio.ServerInterceptor):
    """An interceptor from a function."""

    def __init__(self, function: Callable[[Continuation, grpc.HandlerCallDetails], Awaitable[Any]]) -> None:
        self._function = function

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return await self._function(continuation, handler_call_details)


async def open_with(rig: Rig, *functions: Any) -> Any:
    """A channel to the methods behind these interceptors."""
    return await rig.open(**METHODS, server={"interceptors": [By(function) for function in functions]})


async def test_interceptors_in_order_see_each_call_once(rig: Rig) -> None:
    """The first given is the outermost; each sees method and metadata, and the handler that it may return."""
    told: list[Any] = []

    def named(name: str) -> Any:
        async def intercept(continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            told.append((name, details.method, dict(details.invocation_metadata)["who"]))
            handler = await continuation(details)
            told.append((name, handler.request_streaming, handler.response_streaming))
            return handler

        return intercept

    channel = await open_with(rig, named("outer"), named("middle"), named("inner"))
    for kind in KINDS:
        assert await soon(call(channel, kind, metadata=(("who", "me"),))) == WANTED[kind]
        streams = (kind in "CB", kind in "GB")
        down = [(name, path(kind), "me") for name in ("outer", "middle", "inner")]
        up = [(name, *streams) for name in ("inner", "middle", "outer")]
        assert told == down + up
        told.clear()


async def test_interceptors_that_wrap_handlers_see_requests_and_answers(rig: Rig) -> None:
    """Every kind of handler may be replaced by one around it."""
    told: list[Any] = []

    async def intercept(continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler.unary_unary:

            async def around(request: bytes, context: Context) -> bytes:
                told.append(request)
                return bytes(await handler.unary_unary(request, context)) + b"!"

            return unary_unary(around)
        if handler.unary_stream:

            async def around_stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
                told.append(request)
                async for response in handler.unary_stream(request, context):
                    yield response + b"!"

            return unary_stream(around_stream)

        async def around_requests(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            async for request in requests:
                told.append(request)
                yield request

        if handler.stream_unary:

            async def around_join(requests: AsyncIterator[bytes], context: Context) -> bytes:
                return bytes(await handler.stream_unary(around_requests(requests), context)) + b"!"

            return stream_unary(around_join)

        async def around_both(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            async for response in handler.stream_stream(around_requests(requests), context):
                yield response + b"!"

        return stream_stream(around_both)

    channel = await open_with(rig, intercept)
    wanted = {"U": b"x!", "G": [b"x!", b"x!"], "C": b"x!", "B": [b"x!"]}
    for kind in KINDS:
        assert await soon(call(channel, kind)) == wanted[kind]
        assert told == [b"x"], kind
        told.clear()


@pytest.mark.parametrize("sort", ["asynchronous", "blocking"])
async def test_interceptors_that_refuse_never_reach_the_handler(rig: Rig, sort: str) -> None:
    """A handler that aborts, in the place of the asked one: of the same kind, or simply a unary one for all."""
    told: list[str] = []

    async def refuse(request: bytes, context: Context) -> bytes:
        await context.abort(StatusCode.UNAUTHENTICATED, "who are you?", (("hint", "log in"),))

    def refuse_blocking(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(StatusCode.UNAUTHENTICATED, "who are you?")

    async def outer(continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        if "token" in dict(details.invocation_metadata):
            return await continuation(details)
        return unary_unary(refuse if sort == "asynchronous" else refuse_blocking)

    async def inner(continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        told.append(details.method)
        return await continuation(details)

    channel = await open_with(rig, outer, inner)
    for kind in KINDS:
        error = await refusal(call(channel, kind))
        assert (error.code(), error.details()) == (StatusCode.UNAUTHENTICATED, "who are you?"), kind
        if sort == "asynchronous":
            assert dict(error.trailing_metadata())["hint"] == "log in"
        assert told == []
        assert await soon(call(channel, kind, metadata=(("token", "1"),))) == WANTED[kind]
        assert told == [path(kind)]
        told.clear()


async def test_interceptors_see_unknown_methods_as_none(rig: Rig) -> None:
    """The continuation gives None; who returns it refuses as UNIMPLEMENTED, who returns a handler serves."""
    told: list[Any] = []

    async def intercept(continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        told.append(handler)
        return unary_unary(echo) if details.method == path("Served") else handler

    channel = await open_with(rig, intercept)
    assert await soon(channel.unary_unary(path("Served"))(b"x")) == b"x"
    for kind in KINDS:
        code = (await refusal(call(channel, kind, "Unknown"))).code()
        lost = rig.pair.client.name == GRPCIO and code is StatusCode.INTERNAL  # (A request that it could not send any more.)
        assert code is StatusCode.UNIMPLEMENTED or lost
    assert told == [None] * 5


async def test_interceptors_returning_none_refuse_as_unimplemented(rig: Rig) -> None:
    """None hides a method that exists; the continuation need not be asked."""

    async def hide(continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        return None if details.method == path("U") else await continuation(details)

    channel = await open_with(rig, hide)
    assert (await refusal(call(channel, "U"))).code() is StatusCode.UNIMPLEMENTED
    assert await soon(call(channel, "G")) == WANTED["G"]


async def test_interceptors_that_change_details_choose_the_handler(rig: Rig) -> None:
    """What is given to the continuation is what the next interceptor sees, and what is looked up."""
    told: list[Any] = []

    async def route(continuation: Continuation, details: Any) -> Any:
        return await continuation(type(details)(path("U"), (("changed", "1"),)))

    async def tell(continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        told.append((details.method, tuple(details.invocation_metadata)))
        return await continuation(details)

    channel = await open_with(rig, route, tell)
    assert await soon(channel.unary_unary(path("Old"))(b"x")) == b"x"
    assert told == [(path("U"), (("changed", "1"),))]


async def test_interceptors_share_context_variables_with_handlers(rig: Rig) -> None:
    """What an interceptor sets holds for those behind it and for the handler of this call alone."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    before: list[str] = []

    async def first(continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        before.append(variable.get())
        variable.set(str(dict(details.invocation_metadata)["name"]))
        return await continuation(details)

    async def second(continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        variable.set(variable.get() + "+")
        return await continuation(details)

    async def tell(request: bytes, context: Context) -> bytes:
        await asyncio.sleep(0)
        return variable.get().encode()

    async def tell_stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield variable.get().encode()

    channel = await rig.open(U=unary_unary(tell), G=unary_stream(tell_stream), server={"interceptors": [By(first), By(second)]})
    names = [f"name{number}" for number in range(20)]
    calls = [call(channel, "U", metadata=(("name", name),)) for name in names]
    assert await soon(asyncio.gather(*calls)) == [f"{name}+".encode() for name in names]
    assert await soon(call(channel, "G", metadata=(("name", "x"),))) == [b"x+"]
    assert set(before) == {"unset"}


async def test_interceptors_that_wait_delay_only_their_call(rig: Rig) -> None:
    """An interceptor may await; its call can be cancelled there, and run into its deadline."""
    started: asyncio.Queue[None] = asyncio.Queue()
    ended: asyncio.Queue[str] = asyncio.Queue()

    async def intercept(continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        if "wait" in dict(details.invocation_metadata):
            started.put_nowait(None)
            try:
                await asyncio.Event().wait()
            finally:
                ended.put_nowait("ended")
        return await continuation(details)

    channel = await open_with(rig, intercept)
    waiting = channel.unary_unary(path("U"))(b"x", metadata=(("wait", "1"),))
    await soon(started.get())
    for kind in KINDS:
        assert await soon(call(channel, kind)) == WANTED[kind]
    waiting.cancel()
    assert await soon(ended.get()) == "ended"
    late = await refusal(call(channel, "U", metadata=(("wait", "1"),), timeout=0.1))
    assert late.code() is StatusCode.DEADLINE_EXCEEDED
    assert await soon(ended.get()) == "ended"


async def test_interceptors_that_raise_fail_their_call_alone(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """An exception of an interceptor is one of the call's handler: UNKNOWN."""
    caplog.set_level(logging.CRITICAL)

    async def intercept(continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        if details.method == path("U"):
            raise ValueError("boom")
        return await continuation(details)

    channel = await open_with(rig, intercept)
    error = await refusal(call(channel, "U"))
    assert (error.code(), error.details()) == (StatusCode.UNKNOWN, "Unexpected <class 'ValueError'>: boom")
    assert await soon(call(channel, "G")) == WANTED["G"]


async def test_interceptors_find_codes_of_the_handler_in_the_context(rig: Rig) -> None:
    """Who counts errors wraps the handler and looks at the context afterwards."""
    told: asyncio.Queue[Any] = asyncio.Queue()

    async def intercept(continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)

        async def around(request: bytes, context: Context) -> bytes:
            try:
                return bytes(await handler.unary_unary(request, context))
            finally:
                told.put_nowait((context.code(), context.details()))

        return unary_unary(around, handler.request_deserializer, handler.response_serializer)

    async def handler(request: bytes, context: Context) -> bytes:
        if request == b"abort":
            await context.abort(StatusCode.NOT_FOUND, "gone")
        context.set_code(StatusCode.DATA_LOSS)
        context.set_details("torn")
        return b""

    method = await rig.unary_unary(handler, server={"interceptors": [By(intercept)]})
    assert (await refusal(method(b"set"))).code() is StatusCode.DATA_LOSS
    assert await soon(told.get()) == (StatusCode.DATA_LOSS, "torn")
    assert (await refusal(method(b"abort"))).code() is StatusCode.NOT_FOUND
    assert await soon(told.get()) == (StatusCode.NOT_FOUND, "gone")


async def test_interceptors_of_blocking_handlers_are_asked_on_the_loop(rig: Rig) -> None:
    """Handlers for threads may be wrapped by such."""

    def blocking(request: bytes, context: grpc.ServicerContext) -> bytes:
        return request

    def blocking_stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield request

    async def intercept(continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        asyncio.get_running_loop()
        handler = await continuation(details)
        if not handler.unary_unary:
            return handler

        def around(request: bytes, context: grpc.ServicerContext) -> bytes:
            return bytes(handler.unary_unary(request, context)) + b"!"

        return unary_unary(around)

    channel = await rig.open(U=unary_unary(blocking), G=unary_stream(blocking_stream), server={"interceptors": [By(intercept)]})
    assert await soon(call(channel, "U")) == b"x!"
    assert await soon(call(channel, "G")) == [b"x"]


async def test_interceptors_that_are_none_raise_value_error(rig: Rig) -> None:
    """A server takes nothing but interceptors for servers."""
    for wrong in (object(), print, By):
        with pytest.raises(ValueError, match="ServerInterceptor"):
            rig.pair.server.server(interceptors=[wrong])
