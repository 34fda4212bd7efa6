"""Interceptors of a client made from functions, one class for each kind of call, and a server of all four kinds for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio

from tests.wire.pairs import Context, Rig, collect, path, stream_stream, stream_unary, unary_stream, unary_unary

Continuation: TypeAlias = Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]]
Function: TypeAlias = Callable[[Continuation, grpc.aio.ClientCallDetails, Any], Awaitable[Any]]


class _By:
    def __init__(self, function: Function) -> None:
        self._function = function


class _UnaryUnary(_By, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._function(continuation, client_call_details, request)


class _UnaryStream(_By, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._function(continuation, client_call_details, request)


class _StreamUnary(_By, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._function(continuation, client_call_details, request_iterator)


class _StreamStream(_By, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._function(continuation, client_call_details, request_iterator)


KINDS = {"U": _UnaryUnary, "G": _UnaryStream, "C": _StreamUnary, "B": _StreamStream}
"""By the names of the methods below."""
SENT = b"x"
WANTED: dict[str, Any] = {"U": b"x", "G": [b"x", b"x"], "C": b"x", "B": [b"x"]}


def of_all_kinds(function: Function) -> list[Any]:
    """Four interceptors that do the same."""
    return [kind(function) for kind in KINDS.values()]


class Service:
    """Echoes in all four kinds, and remembers the metadata and the time that its callers had."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.left: list[float | None] = []

    def _see(self, context: Context) -> None:
        self.seen.append(dict(context.invocation_metadata()))
        self.left.append(context.time_remaining())

    async def echo(self, request: bytes, context: Context) -> bytes:
        self._see(context)
        return request

    async def twice(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        self._see(context)
        yield request
        yield request

    async def join(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        self._see(context)
        return b"".join(await collect(requests))

    async def copy(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        self._see(context)
        async for request in requests:
            yield request

    async def open(self, rig: Rig, *interceptors: Any, **methods: Any) -> Any:
        """A channel with these interceptors."""
        return await rig.open(
            U=unary_unary(self.echo),
            G=unary_stream(self.twice),
            C=stream_unary(self.join),
            B=stream_stream(self.copy),
            channel={"interceptors": list(interceptors)},
            **methods,
        )


def begin(channel: Any, kind: str, name: str | None = None, **more: Any) -> Any:
    """Begins a call of a kind with one request."""
    method = path(name or kind)
    if kind == "U":
        return channel.unary_unary(method)(SENT, **more)
    if kind == "G":
        return channel.unary_stream(method)(SENT, **more)
    if kind == "C":
        return channel.stream_unary(method)([SENT], **more)
    return channel.stream_stream(method)([SENT], **more)


async def answer(call: Any) -> Any:
    """What a call of any kind answers."""
    return await (collect(call) if hasattr(call, "read") else call)
