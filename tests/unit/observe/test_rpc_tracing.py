"""Spans of RPCs, over a real grpc.aio server and channel on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from kvnode.config import Config
from kvnode.observe.rpc_tracing import ServerTracing
from kvnode.observe.tracing import Tracing

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = (("traceparent", f"00-{TRACE}-{SPAN}-01"),)
NOT_SAMPLED = (("traceparent", f"00-{TRACE}-{SPAN}-00"),)


class Service:
    """Echoes; fails and streams on demand; remembers the trace it was called in."""

    def __init__(self) -> None:
        self.seen: list[SpanContext] = []

    async def echo(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        self.seen.append(trace.get_current_span().get_span_context())
        if request == b"not found":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such key")
        if request == b"unavailable":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        if request == b"bug":
            raise ValueError("bug")
        if request == b"hang":
            await asyncio.Event().wait()
        return request

    async def count(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        self.seen.append(trace.get_current_span().get_span_context())
        for number in range(3):
            yield bytes([number])

    def handler(self, name: str) -> grpc.GenericRpcHandler:
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Count": grpc.unary_stream_rpc_method_handler(self.count),
        }
        return grpc.method_handlers_generic_handler(name, methods)


class World:
    """A server, its tracing, and a channel to it."""

    def __init__(self, ratio: float) -> None:
        flags = {"tracing.sample_ratio": str(ratio), "node.listen": "127.0.0.1:7401"}
        self.memory = InMemorySpanExporter()
        self.tracing = Tracing(Config.load(None, flags, {}, "local"), [self.memory])
        self.service = Service()
        self.server = grpc.aio.server(interceptors=[ServerTracing(self.tracing)])
        self.server.add_generic_rpc_handlers([self.service.handler("kvapi.v1.KV"), self.service.handler("kvapi.v1.Gossip")])
        target = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.channel = grpc.aio.insecure_channel(target)

    async def echo(self, request: bytes = b"", metadata: Any = None, service: str = "KV", timeout: float = 10) -> bytes:
        call: Any = self.channel.unary_unary(f"/kvapi.v1.{service}/Echo")
        echoed: bytes = await call(request, metadata=metadata, timeout=timeout)
        return echoed

    async def spans(self) -> tuple[ReadableSpan, ...]:
        """All spans, once every handler has returned: an answer may be here before its handler's span has ended."""
        await self.server.stop(grace=10)
        assert self.tracing._provider is not None
        self.tracing._provider.force_flush()
        return self.memory.get_finished_spans()


@asynccontextmanager
async def world(ratio: float = 0.0) -> AsyncIterator[World]:
    made = World(ratio)
    await made.server.start()
    try:
        yield made
    finally:
        await made.channel.close()
        await made.server.stop(None)
        made.tracing.shutdown()


async def test_server_called_within_a_sampled_trace_records_a_child() -> None:
    """The span has the current attributes of the semantic conventions and no deprecated one."""
    async with world() as it:
        await it.echo(metadata=SAMPLED)
        (span,) = await it.spans()
        assert (span.name, span.kind) == ("kvapi.v1.KV/Echo", SpanKind.SERVER)
        assert span.parent is not None
        assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, SPAN)
        attributes = dict(span.attributes or {})
        assert attributes.pop("network.peer.port")
        assert attributes == {
            "rpc.system.name": "grpc",
            "rpc.method": "kvapi.v1.KV/Echo",
            "rpc.response.status_code": "OK",
            "server.address": "127.0.0.1",
            "server.port": 7401,
            "network.peer.address": "127.0.0.1",
        }
        assert it.service.seen == [span.get_span_context()]


async def test_server_called_within_an_unsampled_trace_keeps_its_id() -> None:
    """Nothing is recorded, and logs of the handler still name the caller's trace; the next call has another."""
    async with world(ratio=1.0) as it:
        await it.echo(metadata=NOT_SAMPLED)
        assert f"{it.service.seen[0].trace_id:032x}" == TRACE
        await it.echo(service="Gossip")
        assert not it.service.seen[1].is_valid
        assert await it.spans() == ()


async def test_server_called_without_a_trace_begins_the_sampled_share() -> None:
    """All of them at a ratio of one, none at zero; calls between nodes never begin a trace."""
    async with world(ratio=1.0) as it:
        await it.echo()
        await it.echo(service="Gossip")
        (span,) = await it.spans()
        assert (span.name, span.parent) == ("kvapi.v1.KV/Echo", None)
    async with world(ratio=0.0) as it:
        await it.echo()
        assert await it.spans() == ()
        assert it.service.seen[0].is_valid


@pytest.mark.parametrize(
    ("request_", "status", "blamed"),
    [(b"not found", "NOT_FOUND", False), (b"unavailable", "UNAVAILABLE", True), (b"bug", "UNKNOWN", True)],
)
async def test_server_that_fails_is_an_error_only_if_it_is_to_blame(request_: bytes, status: str, blamed: bool) -> None:
    """A caller's mistake is no error of the server's span; a broken handler is."""
    async with world() as it:
        with pytest.raises(grpc.aio.AioRpcError):
            await it.echo(request_, SAMPLED)
        (span,) = await it.spans()
        assert span.attributes is not None
        assert span.attributes["rpc.response.status_code"] == status
        assert (span.status.status_code is StatusCode.ERROR) == blamed
        assert ("error.type" in span.attributes) == blamed


async def test_server_stream_is_one_span_until_its_end() -> None:
    """A streaming handler runs within the span and ends it."""
    async with world() as it:
        count: Any = it.channel.unary_stream("/kvapi.v1.KV/Count")
        assert [each async for each in count(b"", metadata=SAMPLED)] == [b"\0", b"\1", b"\2"]
        (span,) = await it.spans()
        assert span.attributes is not None
        assert span.attributes["rpc.response.status_code"] == "OK"
        assert it.service.seen == [span.get_span_context()]


async def test_server_asked_for_an_unknown_method_records_nothing() -> None:
    """What no handler takes is answered by grpc itself."""
    async with world(ratio=1.0) as it:
        nothing: Any = it.channel.unary_unary("/kvapi.v1.KV/Nothing")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await nothing(b"", metadata=SAMPLED)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert await it.spans() == ()
