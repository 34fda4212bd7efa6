"""Calls that do not fit: unknown methods, requests too many or too few, serializers that fail.

Where grpcio leaves a caller waiting for ever, or hands out None for an answer, kvwire refuses: those cases name both outcomes.
"""

from __future__ import annotations

import asyncio
import logging
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

StatusCode = grpc.StatusCode


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def fails(message: Any) -> bytes:
    raise ValueError("no form")


async def echo(request: bytes, context: Context) -> bytes:
    return request


async def twice(request: bytes, context: Context) -> AsyncIterator[bytes]:
    yield request
    yield request


async def count(requests: AsyncIterator[bytes], context: Context) -> bytes:
    return str(len(await collect(requests))).encode()


async def copy(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


@pytest.mark.parametrize(
    "unknown", ["/wire.test.Service/Nope", "/other.Service/Echo", "/wire.test.Service/", "/", "//", "noslash"]
)
async def test_unknown_method_of_any_kind_is_unimplemented(rig: Rig, unknown: str) -> None:
    """A path that no handler knows is refused, for all four kinds of call, and the connection goes on."""
    channel = await rig.open(Echo=unary_unary(echo))
    requests = [b"a", b"b"]
    for call in (
        channel.unary_unary(unknown)(b""),
        collect(channel.unary_stream(unknown)(b"")),
        channel.stream_unary(unknown)(requests),
        collect(channel.stream_stream(unknown)(requests)),
    ):
        code = (await refusal(call)).code()
        lost = rig.pair.client.name == GRPCIO and code is StatusCode.INTERNAL  # (A request that it could not send any more.)
        assert code is StatusCode.UNIMPLEMENTED or lost
    assert await soon(channel.unary_unary(path("Echo"))(b"still here")) == b"still here"


async def test_server_without_services_refuses_as_unimplemented(rig: Rig) -> None:
    """A server may be started before anything is registered."""
    channel = rig.connect(await rig.serve())
    assert (await refusal(channel.unary_unary(path("Echo"))(b""))).code() is StatusCode.UNIMPLEMENTED


async def test_handlers_of_several_services_are_asked_in_order(rig: Rig) -> None:
    """The first generic handler that knows a path serves it."""

    async def other(request: bytes, context: Context) -> bytes:
        return b"other"

    first = service(A=unary_unary(echo))
    second = service(A=unary_unary(other), B=unary_unary(other))
    channel = rig.connect(await rig.serve(first, second))
    assert await soon(channel.unary_unary(path("A"))(b"echo")) == b"echo"
    assert await soon(channel.unary_unary(path("B"))(b"echo")) == b"other"


async def test_serializers_of_both_sides_see_each_message(rig: Rig) -> None:
    """Requests and responses of all four kinds pass through both serializers and both deserializers."""
    both = {"request_deserializer": lambda raw: int(raw) * 2, "response_serializer": lambda number: b"%d" % (number + 1)}

    async def total(requests: AsyncIterator[int], context: Context) -> int:
        return sum(await collect(requests))

    channel = await rig.open(
        U=unary_unary(echo, **both), G=unary_stream(twice, **both), C=stream_unary(total, **both), B=stream_stream(copy, **both)
    )
    sides = (lambda number: b"%d" % number, lambda raw: [int(raw)])
    assert await soon(channel.unary_unary(path("U"), *sides)(5)) == [11]
    assert await soon(collect(channel.unary_stream(path("G"), *sides)(5))) == [[11], [11]]
    assert await soon(channel.stream_unary(path("C"), *sides)([5, 6])) == [23]
    assert await soon(collect(channel.stream_stream(path("B"), *sides)([5, 6]))) == [[11], [13]]


async def test_serializer_of_server_failing_ends_calls_as_unknown(rig: Rig) -> None:
    """What the server cannot read, or cannot write, is its error: UNKNOWN, never a hanging call."""
    channel = await rig.open(
        UIn=unary_unary(echo, request_deserializer=fails),
        UOut=unary_unary(echo, response_serializer=fails),
        USort=unary_unary(echo, response_serializer=lambda message: "no bytes"),
        GIn=unary_stream(twice, request_deserializer=fails),
        GOut=unary_stream(twice, response_serializer=fails),
        CIn=stream_unary(count, request_deserializer=fails),
        COut=stream_unary(count, response_serializer=fails),
        BIn=stream_stream(copy, request_deserializer=fails),
        BOut=stream_stream(copy, response_serializer=fails),
    )
    calls = {
        "U": lambda name: channel.unary_unary(name)(b"a"),
        "G": lambda name: collect(channel.unary_stream(name)(b"a")),
        "C": lambda name: channel.stream_unary(name)([b"a"]),
        "B": lambda name: collect(channel.stream_stream(name)([b"a"])),
    }
    for method in ("UIn", "UOut", "USort", "GIn", "GOut", "CIn", "COut", "BIn", "BOut"):
        error = await refusal(calls[method[0]](path(method)))
        assert error.code() is StatusCode.UNKNOWN, method


async def test_deserializer_of_client_failing_gives_no_wrong_answer(rig: Rig) -> None:
    """grpcio logs it and hands out None; kvwire ends the call as INTERNAL. The connection goes on."""
    channel = await rig.open(U=unary_unary(echo), G=unary_stream(twice))
    unary, stream = channel.unary_unary(path("U"), None, fails)(b"a"), channel.unary_stream(path("G"), None, fails)(b"a")
    if rig.pair.client.name == GRPCIO:
        assert await soon(unary) is None
        assert await soon(collect(stream)) == [None, None]
    else:
        assert (await refusal(unary)).code() is StatusCode.INTERNAL
        assert (await refusal(collect(stream))).code() is StatusCode.INTERNAL
    assert await soon(channel.unary_unary(path("U"))(b"on")) == b"on"


@pytest.mark.parametrize("request_", ["text", 5, bytearray(b"x"), object()], ids=["str", "int", "bytearray", "object"])
async def test_request_that_is_no_bytes_raises_type_error(rig: Rig, request_: Any) -> None:
    """Without a serializer only bytes can be sent: the caller's mistake is told by TypeError, and nothing is sent."""
    called: list[bytes] = []

    async def handler(request: bytes, context: Context) -> bytes:
        called.append(request)
        return request

    call = await rig.unary_unary(handler)
    with pytest.raises(TypeError):
        await soon(call(request_))
    assert await soon(call(b"on")) == b"on"
    assert called == [b"on"]


async def test_second_request_of_unary_method_changes_nothing(rig: Rig) -> None:
    """A caller that streams two messages to a unary method gets the answer of the first, which does not wait for the second."""
    channel = await rig.open(U=unary_unary(echo), G=unary_stream(twice))
    unary = channel.stream_unary(path("U"))([b"a", b"b"], timeout=10)
    stream = collect(channel.stream_stream(path("G"))([b"a", b"b"], timeout=10))
    assert await soon(unary) == b"a"
    assert await soon(stream) == [b"a", b"a"]


async def test_missing_request_of_unary_method_is_refused(rig: Rig) -> None:
    """A caller that closes without a message gets UNIMPLEMENTED; grpcio lets it wait."""
    called: list[bytes] = []

    async def handler(request: bytes, context: Context) -> bytes:
        called.append(request)
        return request

    async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        called.append(request)
        yield request

    channel = await rig.open(U=unary_unary(handler), G=unary_stream(stream))
    patience = 0.1 if rig.pair.server.name == GRPCIO else 10
    code = StatusCode.DEADLINE_EXCEEDED if rig.pair.server.name == GRPCIO else StatusCode.UNIMPLEMENTED
    assert (await refusal(channel.stream_unary(path("U"))([], timeout=patience))).code() is code
    assert (await refusal(collect(channel.stream_stream(path("G"))([], timeout=patience)))).code() is code
    assert called == []


async def test_second_response_of_unary_call_is_refused(rig: Rig) -> None:
    """A server that answers twice gives UNIMPLEMENTED at a caller of one answer; grpcio waits for its deadline."""
    channel = await rig.open(G=unary_stream(twice))
    patience = 0.1 if rig.pair.client.name == GRPCIO else 10
    code = StatusCode.DEADLINE_EXCEEDED if rig.pair.client.name == GRPCIO else StatusCode.UNIMPLEMENTED
    assert (await refusal(channel.unary_unary(path("G"))(b"", timeout=patience))).code() is code
    assert (await refusal(channel.stream_unary(path("G"))([b""], timeout=patience))).code() is code


async def test_missing_response_of_unary_call_is_no_answer(rig: Rig) -> None:
    """A server that says OK and nothing else: grpcio hands out None, kvwire refuses by UNIMPLEMENTED."""

    async def nothing(request: bytes, context: Context) -> AsyncIterator[bytes]:
        return
        yield b""

    call = (await rig.open(G=unary_stream(nothing))).unary_unary(path("G"))(b"")
    if rig.pair.client.name == GRPCIO:
        assert await soon(call) is None
    else:
        assert (await refusal(call)).code() is StatusCode.UNIMPLEMENTED


async def test_request_iterator_that_raises_cancels_the_call(rig: Rig) -> None:
    """An error in the caller's own iterator ends the call on both sides."""
    reading, ended = asyncio.Event(), asyncio.Event()

    async def handler(requests: AsyncIterator[bytes], context: Context) -> bytes:
        try:
            async for _ in requests:
                reading.set()
            return b""
        finally:
            ended.set()

    def plain() -> Any:
        yield b"a"
        raise KeyError("mine")

    async def asynchronous() -> AsyncIterator[bytes]:
        yield b"a"
        await reading.wait()
        raise KeyError("mine")

    method = await rig.stream_unary(handler)
    for requests in (plain(), asynchronous()):
        call = method(requests)
        with pytest.raises(asyncio.CancelledError):
            await soon(call)
        assert await call.code() is StatusCode.CANCELLED
        assert call.cancelled()
    await soon(ended.wait())
