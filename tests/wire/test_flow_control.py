"""Flow control: who is not read waits, alone, and goes on when he is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from tests.wire.pairs import (
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
from tests.wire.tap import tapped

StatusCode = grpc.StatusCode
MIB = 1024 * 1024
CHUNK_SIZE = 100_000
CHUNKS = 300
BLOCKED_BELOW = 250
"""A writer that has got so far was never blocked: 25 MB are more than any window."""


def chunk(number: int) -> bytes:
    """A large message that says which one it is."""
    return number.to_bytes(4, "big") * (CHUNK_SIZE // 4)


async def stalled(count: Callable[[], int]) -> int:
    """Waits until a count that has begun moves no more."""
    last, since = -1, 0
    async with asyncio.timeout(10):
        while since < 3 or not last:
            await asyncio.sleep(0.03)
            since = since + 1 if count() == last else 0
            last = count()
    return last


class Stage:
    """Handlers whose reading and writing the test holds up and watches."""

    def __init__(self) -> None:
        self.written = self.read = 0
        self.ended = asyncio.Event()
        self.may_read = asyncio.Event()

    async def generate(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        for number in range(CHUNKS):
            yield chunk(number)
            self.written = number + 1
        self.ended.set()

    async def write(self, request: bytes, context: Context) -> None:
        for number in range(CHUNKS):
            await context.write(chunk(number))
            self.written = number + 1
        self.ended.set()

    async def take(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        await self.may_read.wait()
        async for message in requests:
            assert message == chunk(self.read)
            self.read += 1
        return b"%d" % self.read

    async def take_by_method(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        await self.may_read.wait()
        while (message := await context.read()) is not grpc.aio.EOF:
            assert message == chunk(self.read)
            self.read += 1
        return b"%d" % self.read

    async def echo(self, request: bytes, context: Context) -> bytes:
        return request

    async def copy(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    def service(self) -> Any:
        return service(
            Generate=unary_stream(self.generate),
            Write=unary_stream(self.write),
            Take=stream_unary(self.take),
            TakeByMethod=stream_unary(self.take_by_method),
            Echo=unary_unary(self.echo),
            Copy=stream_stream(self.copy),
        )

    async def open(self, rig: Rig) -> Any:
        return rig.connect(await rig.serve(self.service()))


async def assert_fluent(channel: Any) -> None:
    """Calls of every size are answered now."""
    echo = channel.unary_unary(path("Echo"))
    large = random.Random(1).randbytes(MIB)
    assert await soon(echo(b"small")) == b"small"
    assert await soon(asyncio.gather(echo(large), echo(b"1"), echo(large), echo(b"2"))) == [large, b"1", large, b"2"]
    assert await soon(collect(channel.stream_stream(path("Copy"))([large, b"1"]))) == [large, b"1"]


async def test_large_messages_both_ways_at_once_all_arrive(rig: Rig) -> None:
    """Four streams, each of which sends eight megabytes while it receives them; nobody waits for the other's reading."""
    channel = await Stage().open(rig)
    large = [random.Random(number).randbytes(MIB) for number in range(8)]

    async def by_hand() -> list[Any]:
        call = channel.stream_stream(path("Copy"))()

        async def write() -> None:
            for message in large:
                await call.write(message)
            await call.done_writing()

        _, got = await asyncio.gather(write(), collect(call))
        return got

    async def by_iterator() -> list[Any]:
        return await collect(channel.stream_stream(path("Copy"))(large))

    assert await soon(asyncio.gather(by_hand(), by_iterator(), by_hand(), by_iterator())) == [large] * 4


@pytest.mark.parametrize("style", ["Generate", "Write"])
async def test_server_blocks_while_its_caller_does_not_read(rig: Rig, style: str) -> None:
    """The handler waits in its write, and goes on when the caller reads: everything arrives, in order."""
    stage = Stage()
    channel = await stage.open(rig)
    call = channel.unary_stream(path(style))(b"")
    assert await stalled(lambda: stage.written) < BLOCKED_BELOW
    assert not stage.ended.is_set()
    for number in range(CHUNKS):
        assert await soon(call.read()) == chunk(number)
    assert await soon(call.read()) is grpc.aio.EOF
    await soon(stage.ended.wait())
    assert await call.code() is StatusCode.OK


@pytest.mark.parametrize("style", ["Take", "TakeByMethod"])
async def test_caller_blocks_in_write_while_the_server_does_not_read(rig: Rig, style: str) -> None:
    """The caller waits in its write, and goes on when the handler reads: everything arrives, in order."""
    stage = Stage()
    channel = await stage.open(rig)
    call = channel.stream_unary(path(style))()
    written = 0

    async def write() -> None:
        nonlocal written
        for number in range(CHUNKS):
            await call.write(chunk(number))
            written = number + 1
        await call.done_writing()

    writing = asyncio.create_task(write())
    assert await stalled(lambda: written) < BLOCKED_BELOW
    assert stage.read == 0
    assert not call.done()
    stage.may_read.set()
    assert await soon(call) == b"%d" % CHUNKS
    await soon(writing)


async def test_iterator_of_requests_waits_while_the_server_does_not_read(rig: Rig) -> None:
    """The next message is asked for when the one before has left."""
    stage = Stage()
    channel = await stage.open(rig)
    asked = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal asked
        for number in range(CHUNKS):
            asked = number + 1
            yield chunk(number)

    call = channel.stream_unary(path("Take"))(chunks())
    assert await stalled(lambda: asked) < BLOCKED_BELOW
    assert not call.done()
    stage.may_read.set()
    assert await soon(call) == b"%d" % CHUNKS


async def test_streams_that_are_not_read_hold_up_no_other_call(rig: Rig) -> None:
    """Ten streams of one connection stand still in either direction: all others are as quick as ever."""
    stage = Stage()
    channel = await stage.open(rig)
    calls = [channel.unary_stream(path("Generate"))(b"") for _ in range(5)]
    calls += [channel.unary_stream(path("Write"))(b"") for _ in range(5)]
    senders = [channel.stream_unary(path("Take"))(chunk(number) for number in range(CHUNKS)) for _ in range(5)]
    await stalled(lambda: stage.written)
    await assert_fluent(channel)
    assert not any(call.done() for call in calls + senders)
    for call in calls:
        assert await soon(call.read()) == chunk(0)
    await assert_fluent(channel)
    for call in calls + senders:
        call.cancel()
    await assert_fluent(channel)


async def test_large_messages_that_nobody_reads_hold_up_no_other(rig: Rig) -> None:
    """Eighty streams with a megabyte each for a caller who reads none; each is there when he does."""

    async def generate(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield request * MIB
        yield request

    stage = Stage()
    channel = rig.connect(await rig.serve(service(Large=unary_stream(generate)), stage.service()))
    calls = [channel.unary_stream(path("Large"))(bytes([number])) for number in range(80)]
    await soon(asyncio.gather(*(call.initial_metadata() for call in calls)))
    await assert_fluent(channel)
    for number in reversed(range(80)):
        assert await soon(collect(calls[number])) == [bytes([number]) * MIB, bytes([number])]


async def test_client_that_reads_no_bytes_holds_up_no_other_client(rig: Rig) -> None:
    """Its socket is full: its handlers wait, also those of unary calls; another connection is served. Then it catches up."""
    stage = Stage()
    served = await rig.serve(stage.service())
    async with tapped(served) as tap:
        slow, quick = rig.connect(tap.target), rig.connect(served)
        await assert_fluent(slow)
        tap.hold()
        stream = slow.unary_stream(path("Generate"))(b"")
        large = random.Random(2).randbytes(MIB)
        answers = [asyncio.ensure_future(slow.unary_unary(path("Echo"))(large)) for _ in range(3)]
        late = slow.unary_unary(path("Echo"))(large, timeout=0.2)
        assert await stalled(lambda: stage.written) < BLOCKED_BELOW
        await assert_fluent(quick)
        assert (await refusal(late)).code() is StatusCode.DEADLINE_EXCEEDED
        tap.release()
        assert await soon(asyncio.gather(*answers)) == [large] * 3
        for number in range(CHUNKS):
            assert await soon(stream.read()) == chunk(number)
        assert await soon(stream.read()) is grpc.aio.EOF
        await assert_fluent(slow)
        await slow.close()
