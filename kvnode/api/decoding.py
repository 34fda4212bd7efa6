"""Requests that are no message of their method's type: INVALID_ARGUMENT, and a word about what could not be read.

Owns the deserializers of all services. grpcio by itself answers such a request with UNKNOWN, ends a stream as if all were
well, and writes a traceback into the log each time, which anybody who reaches the port could fill a disk with.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError

from kvnode.api.status import abort
from kvnode.errors import InvalidRequest

Behavior = Callable[[Any, Any], Any]


class Unreadable(NamedTuple):
    """In place of a request that could not be read."""

    why: str


class DecodingServer:
    """Stands between a service's generated registration and the server: every handler gets a deserializer that never raises.

    Pass it to `add_…Servicer_to_server` instead of the server. A service with a stream of requests meets what could not be
    read as an `InvalidRequest` that the stream raises.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Registers the handlers, each made safe at its first call."""
        self._server.add_generic_rpc_handlers(tuple(_SafeHandler(handler) for handler in handlers))

    def add_registered_method_handlers(self, service: str, handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        """Registers the handlers of a service by name."""
        safe = {name: _safe(handler) for name, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, safe)


class _SafeHandler(grpc.GenericRpcHandler):
    def __init__(self, inner: grpc.GenericRpcHandler) -> None:
        self._inner = inner
        self._made: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        method = handler_call_details.method
        found = self._made.get(method)
        if found is None:
            inner = self._inner.service(handler_call_details)
            if inner is None:
                return None
            found = self._made[method] = _safe(inner)
        return found


def _safe(handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
    deserialize, serialize = _deserializer(handler.request_deserializer), handler.response_serializer
    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(_stream_stream(handler.stream_stream), deserialize, serialize)
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler(_stream_unary(handler.stream_unary), deserialize, serialize)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(_unary_stream(handler.unary_stream), deserialize, serialize)
    return grpc.unary_unary_rpc_method_handler(_unary_unary(handler.unary_unary), deserialize, serialize)


def _deserializer(inner: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def deserialize(data: bytes) -> Any:
        try:
            return inner(data)
        except DecodeError as error:
            return Unreadable(str(error))

    return deserialize


def _unreadable(request: Unreadable) -> InvalidRequest:
    return InvalidRequest("request", f"it cannot be read: {request.why}")


async def _readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if type(request) is Unreadable:
            raise _unreadable(request)
        yield request


def _unary_unary(inner: Behavior) -> Behavior:
    async def behavior(request: Any, context: Any) -> Any:
        if type(request) is Unreadable:
            await abort(context, _unreadable(request))
        return await inner(request, context)

    return behavior


def _unary_stream(inner: Behavior) -> Behavior:
    async def behavior(request: Any, context: Any) -> AsyncIterator[Any]:
        if type(request) is Unreadable:
            await abort(context, _unreadable(request))
        async for response in inner(request, context):
            yield response

    return behavior


def _stream_unary(inner: Behavior) -> Behavior:
    async def behavior(requests: AsyncIterator[Any], context: Any) -> Any:
        return await inner(_readable(requests), context)

    return behavior


def _stream_stream(inner: Behavior) -> Behavior:
    async def behavior(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for response in inner(_readable(requests), context):
            yield response

    return behavior
