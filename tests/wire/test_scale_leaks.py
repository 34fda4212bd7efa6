"""Calls by the thousands leave nothing behind, however they end: no objects, no memory.

KVNODE_WIRE_HEAVY=1 makes them a million.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from tests.wire.board import posted, rss_kib
from tests.wire.pairs import GRPCIO, Context, Rig, Wire, path, soon, stream_stream, stream_unary, unary_stream, unary_unary

IS_HEAVY = os.environ.get("KVNODE_WIRE_HEAVY") == "1"
CALLS = 1_000_000 if IS_HEAVY else 20_000
AT_ONCE = 64
GROWTH_KIB_MAX = 5 * 1024


class Fates:
    """One handler for each way in which a call may end, and the calls."""

    def __init__(self) -> None:
        self.waiting, self.begun = 0, dict[bytes, asyncio.Event]()

    async def echo(self, request: bytes, context: Context) -> bytes:
        return request

    async def fail(self, request: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no", (("key", "value"),))

    async def hang(self, request: bytes, context: Context) -> bytes:
        self.begun.pop(request).set()
        return await self.wait(request, context)

    async def wait(self, request: bytes, context: Context) -> bytes:
        self.waiting += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting -= 1
        return b""

    async def numbers(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d" % number

    async def count(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        return b"%d" % len([item async for item in requests])

    async def talk(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for item in requests:
            yield item

    async def open(self, rig: Rig) -> list[Callable[[], Awaitable[Any]]]:
        """What makes one call of each fate."""
        channel = await rig.open(
            Echo=unary_unary(self.echo),
            Fail=unary_unary(self.fail),
            Wait=unary_unary(self.wait),
            Hang=unary_unary(self.hang),
            Numbers=unary_stream(self.numbers),
            Count=stream_unary(self.count),
            Talk=stream_stream(self.talk),
        )
        echo, fail, wait, hang = (channel.unary_unary(path(name)) for name in ("Echo", "Fail", "Wait", "Hang"))
        numbers, count = channel.unary_stream(path("Numbers")), channel.stream_unary(path("Count"))
        talk = channel.stream_stream(path("Talk"))

        numbered = itertools.count()

        async def all_of(call: Any) -> None:
            async for _ in call:
                pass

        async def some_of(call: Any) -> None:
            async for _ in call:
                break
            call.cancel()

        async def given_up() -> None:
            key = b"%d" % next(numbered)
            begun = self.begun[key] = asyncio.Event()
            call = hang(key)
            await begun.wait()
            call.cancel()
            await call.code()

        async def conversation() -> None:
            call = talk()
            for _ in range(3):
                await call.write(b"x")
                assert await call.read() == b"x"
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF

        return [
            lambda: echo(b"x", timeout=20),
            lambda: echo(bytes(100_000), metadata=(("key", "value"),)),
            lambda: fail(b"x").code(),
            lambda: wait(b"x", timeout=0.02).code(),
            given_up,
            lambda: all_of(numbers(b"x")),
            lambda: some_of(numbers(b"x")),
            lambda: count(iter([b"x", b"y"])),
            conversation,
        ]


def objects() -> collections.Counter[str]:
    """What lives, of gRPC's implementations and of asyncio, by type; but for timers, which asyncio keeps when cancelled."""
    gc.collect()
    kinds = (type(item) for item in gc.get_objects())
    return collections.Counter(
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in kinds
        if str(kind.__module__).partition(".")[0] in ("kvwire", "grpc", "_asyncio", "asyncio")
        and kind is not asyncio.TimerHandle
    )


async def test_calls_of_every_fate_leave_no_objects(rig: Rig) -> None:
    """Answered, failed, late, cancelled, half read: when it is over nothing of it is left, at either side."""
    fates = Fates()
    makers = await fates.open(rig)

    async def round_of_all() -> None:
        await soon(asyncio.gather(*(make() for make in makers * 10)))
        while fates.waiting:
            await asyncio.sleep(0.005)

    await round_of_all()
    before = objects()
    for _ in range(5):
        await round_of_all()
    for _ in range(50):  # Both sides end a call in their own time.
        grown = {kind: more for kind, more in (objects() - before).items() if more > 20}
        if not grown:
            break
        await asyncio.sleep(0.1)
    assert grown == {}


@pytest.mark.timeout(3_600 if IS_HEAVY else 60)
async def test_calls_by_the_thousands_do_not_grow(server_wire: Wire) -> None:
    """The memory of both processes after a warm-up is their memory at the end, give or take 5 MiB."""
    total = CALLS // 8 if server_wire.name == GRPCIO else CALLS
    async with posted(server_wire) as server:
        channel = server_wire.insecure_channel(server.target)
        try:
            echo = channel.unary_unary(path("Echo"))

            async def call(count: int) -> None:
                for _ in range(count):
                    assert await echo(b"x" * 100, timeout=60) == b"x" * 100

            async def calls(count: int) -> None:
                await asyncio.gather(*(call(count // AT_ONCE) for _ in range(AT_ONCE)))

            await calls(total // 10)
            gc.collect()
            before = rss_kib(), server.rss_kib
            await calls(total)
            gc.collect()
            grown = rss_kib() - before[0], server.rss_kib - before[1]
            assert max(grown) <= GROWTH_KIB_MAX, grown
        finally:
            await channel.close()
