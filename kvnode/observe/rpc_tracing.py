"""Spans of RPCs: an interceptor for `grpc.aio` servers, with OpenTelemetry's current `rpc.*` attributes.

Owns the server span of each sampled call. Never looks into requests, and never
starts a trace for what nodes say to each other by themselves. Invariant: an RPC that is not sampled costs a few
microseconds: its handler is returned as it is, with the trace id in the task's context.

The semantic conventions (https://opentelemetry.io/docs/specs/semconv/rpc/grpc/): a server's span is an error only where the
server is to blame.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import grpc
import grpc.aio
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import NonRecordingSpan, Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from kvnode.observe.tracing import Tracing, remote_span_context

PUBLIC_SERVICES = frozenset({"kvapi.v1.KV", "kvapi.v1.Cluster"})
"""Only their calls may begin a trace."""

_BLAMED = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Statuses that mean an error of the server."""

_STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class ServerTracing(grpc.aio.ServerInterceptor):
    """Continues the caller's trace, or begins one for the share that is sampled."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        host, _, port = tracing.address.rpartition(":")
        self._here: dict[str, AttributeValue] = {"rpc.system.name": "grpc", "server.address": host, "server.port": int(port)}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Called by grpc for each RPC, in the task in which its handler will run."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method  # "/kvapi.v1.KV/Put"
        remote = remote_span_context(handler_call_details.invocation_metadata)
        if remote is None:
            if method[1 : method.rfind("/")] not in PUBLIC_SERVICES:
                return handler
            context = self._tracing.draw()
            if context is None:
                attach(self._tracing.unsampled())  # ends with the task, which serves this call alone
                return handler
        else:
            context = trace.set_span_in_context(NonRecordingSpan(remote), Context())
            if not (remote.trace_flags.sampled and self._tracing.enabled):
                attach(context)
                return handler
        return handler if handler is None else self._traced(handler, method[1:], context)

    def _traced(
        self, handler: grpc.RpcMethodHandler[Any, Any], method: str, parent: Context
    ) -> grpc.RpcMethodHandler[Any, Any]:
        start = _Starter(self._tracing, method, parent, self._here)
        if handler.response_streaming:
            inner: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream
            behavior: Any = _streaming(inner, start)
        else:
            inner = handler.stream_unary if handler.request_streaming else handler.unary_unary
            behavior = _unary(inner, start)
        kind = f"{'stream' if handler.request_streaming else 'unary'}_{'stream' if handler.response_streaming else 'unary'}"
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        traced = make(behavior, handler.request_deserializer, handler.response_serializer)
        return cast("grpc.RpcMethodHandler[Any, Any]", traced)


class _Starter:
    """Starts and ends the server span of one call."""

    def __init__(self, tracing: Tracing, method: str, parent: Context, attributes: dict[str, AttributeValue]) -> None:
        self._tracing, self._method, self._parent, self._attributes = tracing, method, parent, attributes

    def __call__(self, call: grpc.aio.ServicerContext[Any, Any]) -> Span:
        address, port = _peer(call.peer())
        attributes = self._attributes | {"rpc.method": self._method, "network.peer.address": address, "network.peer.port": port}
        return self._tracing.tracer.start_span(self._method, self._parent, SpanKind.SERVER, attributes)


def _unary(inner: Callable[[Any, Any], Awaitable[Any]], start: _Starter) -> Callable[[Any, Any], Awaitable[Any]]:
    async def behavior(request: Any, call: grpc.aio.ServicerContext[Any, Any]) -> Any:
        span = start(call)
        token = attach(trace.set_span_in_context(span))
        try:
            response = await inner(request, call)
        except BaseException as error:
            _end(span, _status(call, error), _BLAMED)
            raise
        finally:
            detach(token)
        _end(span, _status(call, None), _BLAMED)
        return response

    return behavior


def _streaming(inner: Callable[[Any, Any], AsyncIterator[Any]], start: _Starter) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def behavior(request: Any, call: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        span = start(call)
        attach(trace.set_span_in_context(span))  # ends with the task: a generator may be closed in another context
        status = "CANCELLED"
        try:
            async for response in inner(request, call):
                yield response
            status = _status(call, None)
        except BaseException as error:
            status = _status(call, error)
            raise
        finally:
            _end(span, status, _BLAMED)

    return behavior


def _status(call: grpc.aio.ServicerContext[Any, Any], error: BaseException | None) -> str:
    code: Any = call.code()
    if code:  # a grpc.StatusCode, or its number
        return code.name if isinstance(code, grpc.StatusCode) else _STATUS_NAMES.get(code, "UNKNOWN")
    if error is None:
        return "OK"
    return "CANCELLED" if isinstance(error, asyncio.CancelledError | GeneratorExit) else "UNKNOWN"


def _end(span: Span, status: str, blamed: frozenset[str] | None) -> None:
    span.set_attribute("rpc.response.status_code", status)
    if status != "OK" and (blamed is None or status in blamed):
        span.set_attribute("error.type", status)
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def _peer(peer: str) -> tuple[str, int]:
    """Address and port of grpc's "ipv4:127.0.0.1:1234" or "ipv6:%5B::1%5D:1234"; port 0 where there is none."""
    host, _, port = peer.partition(":")[2].rpartition(":")
    return (host.replace("%5B", "").replace("%5D", ""), int(port)) if port.isdigit() else (peer, 0)
