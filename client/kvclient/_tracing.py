"""OpenTelemetry: a CLIENT span an operation, and W3C Trace Context in the metadata of its calls.

Owns attribute names (semantic conventions for databases and RPC, current names). Depends on the API alone: without an SDK, or
for a trace that is not sampled, an operation costs one check. A Batch that coalescing made carries many operations: it has a
span of its own, linked to theirs, if any of them is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from kvclient._requests import Call, Method
from kvclient.errors import KvError

Metadata = tuple[tuple[str, str], ...]
ASK_AGAIN = 64
"""Operations after which a client that found no tracing set up looks again."""


class Tracing:
    """Makes spans with one tracer."""

    def __init__(self, tracer_provider: trace.TracerProvider | None = None) -> None:
        self._provider = tracer_provider
        self._found: trace.Tracer | None = None
        self._asked = 0

    def _tracer(self) -> trace.Tracer | None:
        """None: nobody set up tracing (yet; asked again now and then, since asking costs more than the rest)."""
        if self._found is None:
            self._asked += 1
            if self._asked % ASK_AGAIN == 1:
                provider = self._provider or trace.get_tracer_provider()
                if not isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
                    self._found = provider.get_tracer("kvclient")
        return self._found

    def start(self, call: Call) -> Span | None:
        """The span of an operation; None if it is not recorded."""
        tracer = self._tracer()
        if tracer is None:
            return None
        span = tracer.start_span(call.method.name, kind=SpanKind.CLIENT)
        if not span.is_recording():
            return None
        _describe(span, call.method)
        if call.key is not None:
            span.set_attribute("kvnode.key.size", len(call.key))
        return span

    def start_batch(self, calls: Iterable[Call], method: Method, size: int, node: str) -> Span | None:
        """The span of a Batch for `calls`, linked to theirs; None if none of them is recorded."""
        spans = [call.span for call in calls if call.span is not None]
        tracer = self._tracer() if spans else None
        if tracer is None:
            return None
        links = [Link(span.get_span_context()) for span in spans]
        parent = trace.set_span_in_context(spans[0])
        span = tracer.start_span(method.name, context=parent, kind=SpanKind.CLIENT, links=links)
        _describe(span, method)
        span.set_attribute("db.operation.batch.size", size)
        set_node(span, node)
        return span


def metadata_of(span: Span | None) -> Metadata | None:
    """W3C Trace Context of `span`, or of the caller's current span; None if there is neither."""
    context = (span or trace.get_current_span()).get_span_context()
    if not context.is_valid:
        return None
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 0xFF:02x}"
    if context.trace_state:
        return (("traceparent", traceparent), ("tracestate", context.trace_state.to_header()))
    return (("traceparent", traceparent),)


def set_node(span: Span, node: str) -> None:
    """Which node it went to; the last attempt's stays."""
    host, _, port = node.rpartition(":")
    span.set_attribute("server.address", host)
    span.set_attribute("server.port", int(port))


def on_retry(span: Span, error: KvError, node: str, pause_s: float) -> None:
    """An attempt failed and another follows."""
    span.add_event("retry", {"error.type": error.reason, "server.address": node, "kvnode.retry.pause": pause_s})


def end(span: Span, error: BaseException | None, attempts: int = 1) -> None:
    """The operation ended, well or with `error`."""
    if attempts > 1:
        span.set_attribute("kvnode.attempts", attempts)
    if error is None:
        span.set_attribute("rpc.response.status_code", "OK")
    else:
        kind = error.reason if isinstance(error, KvError) else type(error).__name__
        if isinstance(error, KvError):
            span.set_attribute("rpc.response.status_code", error.code.name)
            span.set_attribute("db.response.status_code", error.reason)
        span.set_attribute("error.type", kind)
        span.set_status(Status(StatusCode.ERROR, str(error)))
    span.end()


def _describe(span: Span, method: Method) -> None:
    span.set_attributes(
        {
            "db.system.name": "kvnode",
            "db.operation.name": method.name,
            "rpc.system.name": "grpc",
            "rpc.method": f"{method.service}/{method.name}",
        }
    )
