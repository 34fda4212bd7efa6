"""Many calls at once on one connection, and limits on how many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from tests.wire.pairs import GRPCIO, Context, Rig, collect, path, refusal, soon, stream_stream, unary_stream, unary_unary

StatusCode = grpc.StatusCode


class Crowd:
    """A handler that lets nobody go before so many are there."""

    def __init__(self, size: int) -> None:
        self.size, self.here, self.most = size, 0, 0
        self.complete = asyncio.Event()

    async def join(self, request: bytes, context: Context) -> bytes:
        self.here += 1
        self.most = max(self.most, self.here)
        if self.here == self.size:
            self.complete.set()
        try:
            await self.complete.wait()
        finally:
            self.here -= 1
        return request

    async def pass_by(self, request: bytes, context: Context) -> bytes:
        self.here += 1
        self.most = max(self.most, self.here)
        await asyncio.sleep(0.001)
        self.here -= 1
        return request


async def echo(request: bytes, context: Context) -> bytes:
    return request


async def test_thousand_calls_at_once_are_all_in_their_handlers(rig: Rig) -> None:
    """Each waits for the last: one connection carries them together, and each gets its own answer."""
    crowd = Crowd(1000)
    method = await rig.unary_unary(crowd.join)
    requests = [b"%d" % number for number in range(1000)]
    assert await soon(asyncio.gather(*map(method, requests)), 20) == requests
    assert crowd.most == 1000


async def test_hundreds_of_streams_at_once_get_their_own(rig: Rig) -> None:
    """Streams of responses and of both, opened together, read in turns."""

    async def count(request: bytes, context: Context) -> AsyncIterator[bytes]:
        for number in range(3):
            yield request + b" %d" % number

    async def copy(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    channel = await rig.open(G=unary_stream(count), B=stream_stream(copy))
    streams, both = channel.unary_stream(path("G")), channel.stream_stream(path("B"))
    calls = [collect(streams(b"%d" % number)) for number in range(250)]
    calls += [collect(both([b"%d" % number, b"end"])) for number in range(250)]
    wanted: list[Any] = [[b"%d %d" % (number, turn) for turn in range(3)] for number in range(250)]
    wanted += [[b"%d" % number, b"end"] for number in range(250)]
    assert await soon(asyncio.gather(*calls), 20) == wanted


async def test_calls_beyond_concurrent_streams_wait_their_turn(rig: Rig) -> None:
    """`grpc.max_concurrent_streams` of the server: the client queues what is beyond, and nothing is refused.

    (grpcio's server refuses streams now and then, where it has answered one and not forgotten it yet.)
    """
    crowd = Crowd(0)
    method = await rig.unary_unary(crowd.pass_by, server={"options": [("grpc.max_concurrent_streams", 7)]})
    await soon(method(b"first"))  # (Before the server's settings are here, a client may send more.)
    requests = [b"%d" % number for number in range(300)]
    answers = await soon(asyncio.gather(*map(method, requests), return_exceptions=True), 20)
    if rig.pair.server.name == GRPCIO:
        refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert {error.code() for error in refused} <= {StatusCode.UNAVAILABLE}
    else:
        assert answers == requests
    assert crowd.most <= 7


async def test_calls_that_wait_their_turn_can_be_cancelled(rig: Rig) -> None:
    """In the client's queue, by hand and by deadline; those that stay are served when there is room."""
    go, started = asyncio.Event(), asyncio.Event()

    async def patient(request: bytes, context: Context) -> bytes:
        started.set()
        await go.wait()
        return request

    channel = await rig.open(
        P=unary_unary(patient), E=unary_unary(echo), server={"options": [("grpc.max_concurrent_streams", 1)]}
    )
    echo_ = channel.unary_unary(path("E"))
    await soon(echo_(b"first"))
    holding = channel.unary_unary(path("P"))(b"x")
    await soon(started.wait())
    queued = [echo_(b"%d" % number) for number in range(5)]
    late = await refusal(echo_(b"late", timeout=0.1))
    assert late.code() is StatusCode.DEADLINE_EXCEEDED
    assert queued[1].cancel()
    assert await soon(queued[1].code()) is StatusCode.CANCELLED
    assert not any(call.done() for call in (queued[0], *queued[2:]))
    go.set()
    assert await soon(holding) == b"x"
    assert await soon(asyncio.gather(queued[0], *queued[2:])) == [b"0", b"2", b"3", b"4"]


async def test_calls_above_maximum_concurrent_rpcs_are_refused(rig: Rig) -> None:
    """RESOURCE_EXHAUSTED at once, over all connections; room that becomes free is used."""
    go = asyncio.Event()
    started: asyncio.Queue[None] = asyncio.Queue()

    async def patient(request: bytes, context: Context) -> bytes:
        started.put_nowait(None)
        await go.wait()
        return request

    method = await rig.unary_unary(patient, server={"maximum_concurrent_rpcs": 3})
    calls = [method(b"%d" % number) for number in range(3)]
    for _ in calls:
        await soon(started.get())
    for _ in range(3):
        error = await refusal(method(b"one too many"))
        assert (error.code(), error.details()) == (StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")
    calls[0].cancel()
    go.set()
    assert await soon(asyncio.gather(*calls[1:])) == [b"1", b"2"]
    for _ in range(10):
        assert await soon(method(b"again")) == b"again"


async def test_calls_that_end_in_any_way_make_room_again(rig: Rig) -> None:
    """Errors, cancellations and deadlines count down as answers do: the limit is never used up."""

    async def handler(request: bytes, context: Context) -> bytes:
        if request == b"abort":
            await context.abort(StatusCode.ABORTED, "")
        if request == b"wait":
            await asyncio.Event().wait()
        return request

    channel = await rig.open(H=unary_unary(handler), server={"maximum_concurrent_rpcs": 1})
    method = channel.unary_unary(path("H"))
    for _ in range(5):
        assert (await refusal(method(b"abort"))).code() is StatusCode.ABORTED
        assert (await refusal(method(b"wait", timeout=0.02))).code() is StatusCode.DEADLINE_EXCEEDED
        call = method(b"wait")
        await asyncio.sleep(0)
        call.cancel()
        assert (await refusal(channel.unary_unary(path("Unknown"))(b""))).code() in (
            StatusCode.UNIMPLEMENTED,
            StatusCode.RESOURCE_EXHAUSTED,  # (The cancellation is still on its way.)
        )
        await _until_served(method)


async def _until_served(method: Any) -> None:
    """Calls until there is room, which nothing but RESOURCE_EXHAUSTED may deny."""
    async with asyncio.timeout(5):
        while (code := await (call := method(b"x")).code()) is StatusCode.RESOURCE_EXHAUSTED:
            pass
    assert code is StatusCode.OK
    assert await call == b"x"
