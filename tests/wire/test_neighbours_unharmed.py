"""One call's misfortune is no other call's: what may end a call must leave its neighbours on the connection alone."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import grpc.aio
import pytest

import kvwire
from tests.wire import frames as h2
from tests.wire import raw
from tests.wire.certificates import Authority
from tests.wire.pairs import GRPCIO, Context, Rig, path, refusal, soon, stream_unary, unary_stream, unary_unary

StatusCode = grpc.StatusCode


class Waiting:
    """A handler that answers when it is told to."""

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Semaphore(0), asyncio.Event()

    async def handler(self, request: bytes, context: Context) -> bytes:
        """Waits, and echoes."""
        self.begun.release()
        await self.go_on.wait()
        return request


async def with_neighbour(rig: Rig, **methods: Any) -> tuple[grpc.aio.Channel, asyncio.Task[bytes], Waiting]:
    """A channel with a call under way that must end well."""
    waiting = Waiting()
    channel = await rig.open(Wait=unary_unary(waiting.handler), **methods)
    neighbour = asyncio.ensure_future(_await(channel.unary_unary(path("Wait"))(b"innocent")))
    await soon(waiting.begun.acquire())
    return channel, neighbour, waiting


async def _await(call: Any) -> bytes:
    answer: bytes = await call
    return answer


async def test_error_of_seventy_kilobytes_fails_its_own_call_alone(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """An exception's text may be long; kvwire's server cuts it, so that the status arrives."""
    caplog.set_level(logging.CRITICAL)

    async def verbose(request: bytes, context: Context) -> bytes:
        raise ValueError("x" * 70_000)

    channel, neighbour, waiting = await with_neighbour(rig, Verbose=unary_unary(verbose))
    error = await refusal(channel.unary_unary(path("Verbose"))(b""))
    expected = StatusCode.RESOURCE_EXHAUSTED if rig.pair.server.name == GRPCIO else StatusCode.UNKNOWN
    assert error.code() is expected
    waiting.go_on.set()
    assert await soon(neighbour) == b"innocent"


async def test_metadata_of_seventy_kilobytes_fails_its_own_call_alone(rig: Rig) -> None:
    """Far above the limit is refused as a little above it is."""

    async def echo(request: bytes, context: Context) -> bytes:
        return request

    channel, neighbour, waiting = await with_neighbour(rig, Echo=unary_unary(echo))
    error = await refusal(channel.unary_unary(path("Echo"))(b"", metadata=(("big", "x" * 70_000),)))
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    waiting.go_on.set()
    assert await soon(neighbour) == b"innocent"


async def test_deadlines_by_thousands_end_no_connection(rig: Rig) -> None:
    """Callers whose time is over reset their calls: that is no attack, however many there are."""
    channel, neighbour, waiting = await with_neighbour(rig)
    method = channel.unary_unary(path("Wait"))
    for _ in range(4):
        codes = await soon(asyncio.gather(*(method(b"", timeout=0.1).code() for _ in range(700))))
        allowed = {StatusCode.DEADLINE_EXCEEDED} | ({StatusCode.CANCELLED} if rig.pair.server.name == GRPCIO else set())
        assert set(codes) <= allowed  # (grpcio's server drops some of very many.)
    waiting.go_on.set()
    assert await soon(neighbour) == b"innocent"


async def test_write_that_loses_against_the_end_harms_nobody(rig: Rig) -> None:
    """A write that has not left when the end of the requests is said is refused, or sent before it; the connection goes on."""

    async def count(requests: Any, context: Context) -> bytes:
        return b"%d" % len([request async for request in requests])

    channel, neighbour, waiting = await with_neighbour(rig, Count=stream_unary(count))
    call = channel.stream_unary(path("Count"))()
    writing = asyncio.ensure_future(call.write(b"x"))
    await call.done_writing()
    await soon(asyncio.wait([writing]))
    writing.exception()
    assert await soon(call.code()) in (
        (StatusCode.OK, StatusCode.INTERNAL) if rig.pair.client.name == GRPCIO else (StatusCode.OK,)
    )
    waiting.go_on.set()
    assert await soon(neighbour) == b"innocent"


@pytest.mark.parametrize("details", [ValueError("boom"), 5, b"bytes"], ids=["error", "number", "bytes"])
async def test_details_that_are_no_text_raise_in_the_handler(rig: Rig, details: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets an answer, and nothing of the call is left."""
    caplog.set_level(logging.CRITICAL)

    async def handler(request: bytes, context: Context) -> bytes:
        await context.abort(StatusCode.INTERNAL, details)

    error = await refusal((await rig.unary_unary(handler))(b""))
    assert error.code() in (StatusCode.UNKNOWN, StatusCode.INTERNAL)


@pytest.mark.parametrize("host", ["foo..bar:80", "a" * 64 + ".example:80"])
async def test_name_that_is_none_fails_calls_at_once(host: str) -> None:
    """A target that no resolver takes is unreachable, not being connected to for ever."""
    channel = kvwire.insecure_channel(host)
    try:
        assert (await refusal(channel.unary_unary(path("Echo"))(b""))).code() is StatusCode.UNAVAILABLE
        assert channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
    finally:
        await channel.close()


@pytest.mark.parametrize("is_secure", [False, True], ids=["tcp", "tls"])
async def test_answers_by_hundreds_arrive_before_a_server_is_gone(is_secure: bool) -> None:
    """What came in one read is looked at in turns: also when the connection ends behind it."""
    waiting, authority = Waiting(), Authority()
    server = kvwire.server()
    server.add_registered_method_handlers("wire.test.Service", {"Wait": unary_unary(waiting.handler)})
    if is_secure:
        port = server.add_secure_port("127.0.0.1:0", kvwire.ssl_server_credentials([authority.server]))
        credentials = kvwire.ssl_channel_credentials(authority.root)
        channel = kvwire.secure_channel(
            f"127.0.0.1:{port}", credentials, options=[("grpc.ssl_target_name_override", "localhost")]
        )
    else:
        port = server.add_insecure_port("127.0.0.1:0")
        channel = kvwire.insecure_channel(f"127.0.0.1:{port}")
    await server.start()
    try:
        calls = [channel.unary_unary(path("Wait"))(b"x" * 2_000) for _ in range(200)]
        for _ in calls:
            await soon(waiting.begun.acquire())
        stopping = asyncio.ensure_future(server.stop(10))
        await asyncio.sleep(0)
        waiting.go_on.set()
        assert await soon(asyncio.gather(*(_await(call) for call in calls))) == [b"x" * 2_000] * 200
        await soon(stopping)
    finally:
        await channel.close()
        await server.stop(None)


async def test_writes_of_two_tasks_to_one_caller_both_leave() -> None:
    """Whoever waits for a window is told, not only the last who began to."""
    server = kvwire.server()

    async def twice(request: bytes, context: Context) -> None:
        await asyncio.gather(context.write(b"a" * 400_000), context.write(b"b" * 400_000))

    server.add_registered_method_handlers("wire.test.Service", {"Twice": unary_stream(twice)})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = kvwire.insecure_channel(f"127.0.0.1:{port}")
    try:
        call = channel.unary_stream(path("Twice"))(b"")
        sizes = [len(message) async for message in call]
        assert sizes == [400_000, 400_000]
        await soon(server.stop(5))
    finally:
        await channel.close()
        await server.stop(None)


async def test_close_that_is_given_up_is_finished_by_the_next() -> None:
    """A caller who does not wait for the grace leaves no call and no socket behind."""
    waiting = Waiting()
    server = kvwire.server()
    server.add_registered_method_handlers("wire.test.Service", {"Wait": unary_unary(waiting.handler)})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = kvwire.insecure_channel(f"127.0.0.1:{port}")
    try:
        call = channel.unary_unary(path("Wait"))(b"")
        await soon(waiting.begun.acquire())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(channel.close(grace=0.5), 0.05)
        await soon(channel.close())
        assert call.cancelled()
    finally:
        await channel.close()
        await server.stop(None)


async def test_answer_that_cannot_leave_in_time_is_reset() -> None:
    """A caller that opens no window learns of the deadline by RST_STREAM."""
    server = kvwire.server()

    async def answer(request: bytes, context: Context) -> bytes:
        return b"x" * 100

    server.add_registered_method_handlers("wire.test.Service", {"Answer": unary_unary(answer)})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with raw.connect(f"127.0.0.1:{port}") as peer:
            await peer.send(
                h2.settings({4: 0}),
                h2.request(1, path("Answer"), (("grpc-timeout", "200m"),)),
                h2.data(1, h2.message(b""), end=True),
            )
            frame = await peer.take(lambda frame: frame.type == h2.RST_STREAM and frame.stream == 1)
            assert frame.number == h2.CANCEL
    finally:
        await server.stop(None)
