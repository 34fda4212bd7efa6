"""Handlers that wait to be cancelled, of all four kinds, and what a caller sees of a call that it cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from tests.wire.pairs import GRPCIO, Context, Rig, path, soon, stream_stream, stream_unary, unary_stream, unary_unary

StatusCode = grpc.StatusCode
KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]


class Stage:
    """Handlers of all kinds that say when they began and how they ended, and wait in between."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[str] = asyncio.Queue()
        self.ended: asyncio.Queue[str] = asyncio.Queue()

    async def wait(self, kind: str) -> None:
        self.started.put_nowait(kind)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended.put_nowait("cancelled")
            raise

    async def unary_unary(self, request: bytes, context: Context) -> bytes:
        await self.wait("unary_unary")
        return b""

    async def unary_stream(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"first"
        await self.wait("unary_stream")

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        await self.wait("stream_unary")
        return b""

    async def stream_stream(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        yield b"first"
        await self.wait("stream_stream")

    async def echo(self, request: bytes, context: Context) -> bytes:
        return request

    async def open(self, rig: Rig) -> dict[str, Callable[..., Any]]:
        """By kind, what begins a call; "echo" shows that the connection goes on."""
        channel = await rig.open(
            unary_unary=unary_unary(self.unary_unary),
            unary_stream=unary_stream(self.unary_stream),
            stream_unary=stream_unary(self.stream_unary),
            stream_stream=stream_stream(self.stream_stream),
            echo=unary_unary(self.echo),
        )
        return {
            "unary_unary": lambda **more: channel.unary_unary(path("unary_unary"))(b"", **more),
            "unary_stream": lambda **more: channel.unary_stream(path("unary_stream"))(b"", **more),
            "stream_unary": channel.stream_unary(path("stream_unary")),
            "stream_stream": channel.stream_stream(path("stream_stream")),
            "echo": channel.unary_unary(path("echo")),
        }


async def result(call: Any) -> Any:
    """The answer, or what reading says."""
    return await (call.read() if hasattr(call, "read") else call)


async def assert_cancelled(call: Any) -> None:
    """The caller's view of a call that it cancelled."""
    with pytest.raises(asyncio.CancelledError):
        await soon(result(call))
    assert call.done()
    assert call.cancelled()
    assert await soon(call.code()) is StatusCode.CANCELLED
    assert await soon(call.details())
    assert await soon(call.trailing_metadata()) == grpc.aio.Metadata()
    assert not call.cancel()


async def assert_unwound(rig: Rig, ended: asyncio.Queue[str]) -> None:
    """A handler that read when its call ended was cancelled where it read. On grpcio the stream may have ended before."""
    how = await soon(ended.get())
    if how == "complete" and rig.pair.server.name == GRPCIO:
        how = await soon(ended.get())
    assert how == "cancelled"
