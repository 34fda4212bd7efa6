"""What a server counts: connections, calls, and each limit that was in a peer's way, under the limit's own name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

import kvwire
from kvwire import frames, limits
from kvwire.server_connection import ServerConnection
from tests.unit.kvwire import cores
from tests.wire import frames as h2

BLOCK = h2.block(h2.request_fields("/wire.test.Service/Method"))
OPEN = h2.PREFACE + h2.settings() + h2.settings_ack()
PING = h2.frame(frames.PING, 0, 0, bytes(8))


def counting(**sizes: int) -> tuple[ServerConnection, list[str]]:
    """A server's core, and the limits that it tells of."""
    server, _ = cores.server_core(**sizes)
    told: list[str] = []
    server.on_limit = told.append
    cores.feed(server, OPEN, 0.0)
    return server, told


@pytest.mark.parametrize(
    ("limit", "sent"),
    [
        ("control_frames", h2.frame(frames.PRIORITY, 0, 1, bytes(5)) * 2_001),
        ("settings", h2.settings() * 101),
        ("window_updates", h2.window_update(0, 1) * 200_001),
        ("resets", b"".join(h2.headers(number, BLOCK) + h2.rst(number) for number in range(1, 4_005, 2))),
        ("pings", PING * 4),
        ("metadata", h2.headers(1, BLOCK, flags=0) + h2.frame(frames.CONTINUATION, 0, 1, bytes(16_000)) * 20),
    ],
)
def test_flood_of_one_kind_is_counted_once_and_ends_the_connection(limit: str, sent: bytes) -> None:
    """Under the name of the limit that it passed; what comes afterwards counts no more."""
    server, told = counting()
    cores.feed(server, sent, 0.5)
    assert server.closed is not None
    assert told == [limit]
    server.give_up("once more")
    assert told == [limit]


def test_stream_beyond_the_bound_is_counted_and_the_connection_goes_on() -> None:
    """Each of them, by itself."""
    server, told = counting(streams_max=1)
    cores.feed(server, b"".join(h2.headers(number, BLOCK) for number in (1, 3, 5)), 0.5)
    assert server.closed is None
    assert told == ["streams", "streams"]


def test_call_with_too_many_metadata_is_counted_and_the_connection_goes_on() -> None:
    """More than announced, less than what ends a connection."""
    server, told = counting()
    large = h2.block([*h2.request_fields("/wire.test.Service/Method"), ("large", "x" * 17_000)])
    parts = [large[at : at + 16_000] for at in range(0, len(large), 16_000)]
    sent = h2.headers(1, parts[0], flags=0) + h2.frame(frames.CONTINUATION, h2.END_HEADERS, 1, parts[1])
    cores.feed(server, sent, 0.5)
    assert server.closed is None
    assert told == ["metadata"]


def test_connection_that_holds_too_much_is_counted_as_memory() -> None:
    """The one that is closed for it."""
    server, told = counting(memory_bytes=50_000)
    cores.feed(server, h2.headers(1, BLOCK), 0.5)
    for _ in range(4):
        cores.feed(server, h2.data(1, h2.message(bytes(16_000))), 0.5)
    assert server.closed is not None
    assert told == ["memory"]


def test_peer_that_breaks_the_protocol_runs_into_no_limit() -> None:
    """A fault is no refusal."""
    server, told = counting()
    cores.feed(server, h2.frame(frames.PUSH_PROMISE, 0, 1, bytes(8)), 0.5)
    assert server.closed is not None
    assert told == []


# ---- a whole server -------------------------------------------------------------------------------------------------

Behaviour = Callable[[bytes, Any], Awaitable[bytes]]


@asynccontextmanager
async def serving(behaviour: Behaviour, **options: Any) -> AsyncIterator[tuple[kvwire.Server, str]]:
    """A server with one method, /s/m, and its address."""
    server = kvwire.server(**options)
    server.add_registered_method_handlers("s", {"m": grpc.unary_unary_rpc_method_handler(behaviour)})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def echo(request: bytes, context: Any) -> bytes:
    """The request."""
    return request


async def test_server_counts_connections_calls_and_messages_that_are_too_large() -> None:
    """From the start; nothing else is counted with them."""
    async with serving(echo, options=[("grpc.max_receive_message_length", 100)]) as (server, address):
        assert (server.connections, server.connections_opened, server.calls, server.in_flight) == (0, 0, 0, 0)
        assert server.refusals == dict.fromkeys(limits.COUNTED, 0)
        async with kvwire.insecure_channel(address) as channel:
            call = channel.unary_unary("/s/m")
            assert [await call(b"x") for _ in range(3)] == [b"x"] * 3
            with pytest.raises(grpc.aio.AioRpcError, match="RESOURCE_EXHAUSTED"):
                await call(bytes(101))
            packed = channel.unary_unary("/s/m")
            with pytest.raises(grpc.aio.AioRpcError, match="RESOURCE_EXHAUSTED"):
                await packed(bytes(10_000), compression=grpc.Compression.Gzip)
            assert (server.connections, server.connections_opened, server.calls) == (1, 1, 5)
        async with kvwire.insecure_channel(address) as channel:
            await channel.unary_unary("/s/m")(b"x")
            assert server.connections_opened == 2
        assert server.refusals == dict.fromkeys(limits.COUNTED, 0) | {"message_size": 2}


async def test_server_counts_calls_that_are_one_too_many() -> None:
    """`maximum_concurrent_rpcs`."""
    release = asyncio.Event()
    begun = asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        begun.set()
        await release.wait()
        return request

    async with serving(wait, maximum_concurrent_rpcs=1) as (server, address), kvwire.insecure_channel(address) as channel:
        first = channel.unary_unary("/s/m")(b"first")
        await begun.wait()
        with pytest.raises(grpc.aio.AioRpcError, match="Concurrent RPC limit exceeded"):
            await channel.unary_unary("/s/m")(b"second")
        release.set()
        assert await first == b"first"
        assert server.refusals["calls"] == 1


async def test_server_counts_connections_beyond_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed at once; the first one is served."""
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", 1)
    async with serving(echo) as (server, address), kvwire.insecure_channel(address) as channel:
        await channel.unary_unary("/s/m")(b"x")
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            assert await reader.read(100) == b""
        except ConnectionResetError:
            pass
        writer.close()
        assert server.refusals["connections"] == 1
        assert await channel.unary_unary("/s/m")(b"y") == b"y"
