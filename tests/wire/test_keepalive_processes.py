"""Keepalive between processes: one is frozen, one is busy with itself."""

from __future__ import annotations

import asyncio
import time

import grpc

from tests.wire.board import posted
from tests.wire.pairs import Wire, path, soon
from tests.wire.test_keepalive_clients import INTERVAL_S, OPTIONS, SLACK_S, TIMEOUT_S, WITHOUT_CALLS

UNAVAILABLE, READY = grpc.StatusCode.UNAVAILABLE, grpc.ChannelConnectivity.READY


async def test_server_process_that_is_frozen_fails_calls_in_time_and_is_found_again(client_wire: Wire) -> None:
    """SIGSTOP: the kernel goes on to take bytes and connections, but nobody answers; after SIGCONT calls are served."""
    async with posted(client_wire) as server:
        channel = client_wire.insecure_channel(server.target, options=list(OPTIONS.items()))
        try:
            echo = channel.unary_unary(path("Echo"))
            watch = channel.unary_stream(path("Watch"))(b"")
            assert await soon(watch.read()) == b""
            begun = time.monotonic()
            server.freeze()
            unary = echo(b"x", timeout=25)
            assert await soon(unary.code()) is UNAVAILABLE
            assert time.monotonic() - begun <= INTERVAL_S + TIMEOUT_S + SLACK_S
            assert await soon(watch.code()) is UNAVAILABLE
            while channel.get_state() is READY:
                await soon(channel.wait_for_state_change(READY))
            waiting = asyncio.ensure_future(echo(b"y", timeout=25, wait_for_ready=True))  # type: ignore[arg-type]
            await soon(channel.wait_for_state_change(grpc.ChannelConnectivity.IDLE))
            server.thaw()
            assert await soon(waiting) == b"y"
        finally:
            await channel.close()


async def test_client_that_is_busy_with_itself_takes_no_server_for_dead(client_wire: Wire) -> None:
    """Who has not looked for longer than the time-out looks first, and judges then."""
    options = {**OPTIONS, "grpc.keepalive_time_ms": 50, "grpc.keepalive_timeout_ms": 100, "grpc.http2.ping_timeout_ms": 100}
    async with posted(client_wire) as server:
        channel = client_wire.insecure_channel(server.target, options=[*options.items(), WITHOUT_CALLS])
        try:
            watch = channel.unary_stream(path("Watch"))(b"")
            assert await soon(watch.read()) == b""
            for number in (0, 4, 5, 5, 6, 10):
                await asyncio.sleep(0.01 * number)
                time.sleep(0.15)  # noqa: ASYNC251 - the event loop is what is busy
            assert not watch.done()
            watch.cancel()
        finally:
            await channel.close()
