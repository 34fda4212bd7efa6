"""The four kinds of call, with every style of handler and of caller."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from tests.wire.pairs import (
    Context,
    Rig,
    collect,
    path,
    soon,
    stream_stream,
    stream_unary,
    unary_stream,
    unary_unary,
)

StatusCode = grpc.StatusCode
EOF = grpc.aio.EOF
SENT = [b"a", b"", b"c" * 40_000, b"d"]


async def echo(request: bytes, context: Context) -> bytes:
    return request


async def each_by_generator(request: bytes, context: Context) -> AsyncIterator[bytes]:
    for byte in request:
        yield bytes([byte])


async def each_by_write(request: bytes, context: Context) -> None:
    for byte in request:
        await context.write(bytes([byte]))


def each_by_thread(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    for byte in request:
        yield bytes([byte])


async def join_by_iterator(requests: AsyncIterator[bytes], context: Context) -> bytes:
    return b"|".join(await collect(requests))


async def join_by_read(requests: AsyncIterator[bytes], context: Context) -> bytes:
    got = []
    while (message := await context.read()) is not EOF:
        got.append(message)
    assert await context.read() is EOF
    return b"|".join(got)


def join_by_thread(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    return b"|".join(requests)


async def copy_by_generator(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
    async for message in requests:
        yield message


async def copy_by_methods(requests: AsyncIterator[bytes], context: Context) -> None:
    while (message := await context.read()) is not EOF:
        await context.write(message)


async def copy_by_read_and_yield(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
    while (message := await context.read()) is not EOF:
        yield message


async def copy_by_iterator_and_write(requests: AsyncIterator[bytes], context: Context) -> None:
    async for message in requests:
        await context.write(message)


def copy_by_thread(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    yield from requests


class Servicer:
    """As generated code does it: a bound method is the handler."""

    async def echo(self, request: bytes, context: Context) -> bytes:
        return request


async def asynchronous() -> AsyncIterator[bytes]:
    for message in SENT:
        yield message
        await asyncio.sleep(0)


async def read_all(call: Any) -> list[bytes]:
    """By `read()` until its end, which stays the end."""
    got = []
    while (message := await call.read()) is not EOF:
        got.append(message)
    assert await call.read() is EOF
    return got


async def write_all(call: Any, messages: list[bytes]) -> None:
    """By `write()`, then `done_writing()`, which may be said twice."""
    for message in messages:
        await call.write(message)
    await call.done_writing()
    await call.done_writing()


async def assert_ok(call: Any) -> None:
    assert (await soon(call.code()), await soon(call.details())) == (StatusCode.OK, "")
    assert call.done()
    assert not call.cancelled()


async def test_unary_call_is_awaited_more_than_once(rig: Rig) -> None:
    """The answer stays with the call."""
    call = (await rig.unary_unary(echo))(b"x")
    assert [await soon(call), await soon(call)] == [b"x", b"x"]
    await assert_ok(call)


@pytest.mark.parametrize("handler", [each_by_generator, each_by_write, each_by_thread])
async def test_response_stream_is_read_in_every_style(rig: Rig, handler: Any) -> None:
    """By iteration and by `read()`: all messages, in order, then the end."""
    method = await rig.unary_stream(handler)
    for request in (b"", b"1", b"12345"):
        wanted = [bytes([byte]) for byte in request]
        call = method(request)
        assert await soon(collect(call)) == wanted
        await assert_ok(call)
        call = method(request)
        assert await soon(read_all(call)) == wanted
        await assert_ok(call)


@pytest.mark.parametrize("handler", [join_by_iterator, join_by_read, join_by_thread])
async def test_request_stream_is_sent_in_every_style(rig: Rig, handler: Any) -> None:
    """From a list, a generator, an async generator, and by `write()`."""
    method = await rig.stream_unary(handler)
    for requests in (SENT, (message for message in SENT), asynchronous()):
        call = method(requests)
        assert await soon(call) == b"|".join(SENT)
        await assert_ok(call)
    call = method()
    await soon(write_all(call, SENT))
    assert await soon(call) == b"|".join(SENT)
    await assert_ok(call)
    call = method([])
    assert await soon(call) == b""
    call = method()
    await call.done_writing()
    assert await soon(call) == b""


COPIES = [copy_by_generator, copy_by_methods, copy_by_read_and_yield, copy_by_iterator_and_write, copy_by_thread]


@pytest.mark.parametrize("handler", COPIES)
async def test_both_streams_are_used_in_every_style(rig: Rig, handler: Any) -> None:
    """Iterators and methods on either side, in each combination."""
    method = await rig.stream_stream(handler)
    for requests in (SENT, (message for message in SENT), asynchronous(), []):
        wanted = [] if requests == [] else SENT
        call = method(requests)
        assert await soon(collect(call)) == wanted
        await assert_ok(call)
    call = method(asynchronous())
    assert await soon(read_all(call)) == SENT
    call = method()
    assert await soon(asyncio.gather(write_all(call, SENT), read_all(call))) == [None, SENT]
    await assert_ok(call)
    call = method()
    assert await soon(asyncio.gather(write_all(call, SENT), collect(call))) == [None, SENT]
    call = method()
    await call.done_writing()
    assert await soon(call.read()) is EOF
    await assert_ok(call)


async def test_ping_pong_on_both_streams_needs_no_more_than_one_message(rig: Rig) -> None:
    """A message is delivered when it is sent, not when the next one is, or the stream's end."""
    call = (await rig.stream_stream(copy_by_generator))()
    for turn in range(50):
        await call.write(b"%d" % turn)
        assert await soon(call.read()) == b"%d" % turn
    await call.done_writing()
    assert await soon(call.read()) is EOF


async def test_responses_without_any_request_come_at_once(rig: Rig) -> None:
    """A handler of two streams may speak first."""

    async def greeting(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        yield b"hello"
        async for message in requests:
            yield message

    call = (await rig.stream_stream(greeting))()
    assert await soon(call.read()) == b"hello"
    await call.write(b"1")
    assert await soon(call.read()) == b"1"
    await call.done_writing()
    assert await soon(call.read()) is EOF


async def test_responses_after_the_end_of_requests_still_come(rig: Rig) -> None:
    """The caller's half-close is seen as the end of requests alone: the answers follow."""

    async def late(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        got = await collect(requests)
        for message in got:
            yield message

    call = (await rig.stream_stream(late))()
    await soon(write_all(call, [b"1", b"2"]))
    assert await soon(read_all(call)) == [b"1", b"2"]


@pytest.mark.parametrize("style", ["iterator", "methods"])
async def test_thousands_of_messages_arrive_in_order(rig: Rig, style: str) -> None:
    """Both directions at once, none lost, none changed places."""
    count = 1_000 if style == "methods" else 5_000
    sent = [number.to_bytes(4, "big") for number in range(count)]
    method = await rig.stream_stream(copy_by_generator if style == "iterator" else copy_by_methods)
    if style == "iterator":
        got = await soon(collect(method(sent)), 25)
    else:
        call = method()
        _, got = await soon(asyncio.gather(write_all(call, sent), read_all(call)), 25)
    assert got == sent


async def test_stream_that_flows_for_a_while_is_not_cut_off(rig: Rig) -> None:
    """A client that measures its bandwidth by pings while data flows (as grpcio does) is no attacker."""
    channel = await rig.open(G=stream_stream(copy_by_generator), M=stream_stream(copy_by_methods))

    async def flow(method: str) -> None:
        call = channel.stream_stream(path(method))()
        end = asyncio.get_running_loop().time() + 0.8
        while asyncio.get_running_loop().time() < end:
            await call.write(b"x" * 1000)
            assert await soon(call.read()) == b"x" * 1000
            await asyncio.sleep(0.002)
        await call.done_writing()
        assert await soon(call.read()) is EOF

    await asyncio.gather(flow("G"), flow("M"))


async def test_callers_of_all_kinds_at_once_get_their_own(rig: Rig) -> None:
    """Streams that share a connection do not mix."""
    channel = await rig.open(
        U=unary_unary(echo),
        G=unary_stream(each_by_generator),
        C=stream_unary(join_by_iterator),
        B=stream_stream(copy_by_generator),
    )

    async def one(number: int) -> None:
        text = b"%d" % number
        letters = [bytes([byte]) for byte in text]
        assert await channel.unary_unary(path("U"))(text) == text
        assert await collect(channel.unary_stream(path("G"))(text)) == letters
        assert await channel.stream_unary(path("C"))(letters) == b"|".join(letters)
        assert await collect(channel.stream_stream(path("B"))(letters)) == letters

    await soon(asyncio.gather(*map(one, range(100, 200))))


async def test_bound_methods_and_partials_serve_as_handlers(rig: Rig) -> None:
    """What generated code registers are bound methods; wrappers keep being coroutine functions."""
    for handler in (Servicer().echo, functools.partial(echo)):
        method = await rig.unary_unary(handler)
        assert await soon(method(b"x")) == b"x"
