"""Follows a sampled write from its leader's log to its followers': the trace context travels in the append's envelope.

An append carries many requests; it continues the trace of the latest sampled one in it. Costs a dictionary look-up for
requests that are not sampled.
"""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Tracer

from kvapi.v1 import replication_pb2
from kvnode.observe.tracing import TRACEPARENT, extract, metadata_of
from kvnode.types import Index, NodeName, Shard, Term


class ReplicationTracing:
    """Spans of proposals on leaders, and of appends on followers."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        """Without a tracer it only hands contexts on."""
        self._tracer = tracer or NoOpTracer()
        self._latest: dict[Shard, tuple[Index, str]] = {}

    def start_proposal(self, shard: Shard, term: Term, index: Index) -> Span | None:
        """The span of a write's way through the log, if its request is sampled; the caller ends it."""
        if not trace.get_current_span().get_span_context().trace_flags.sampled:
            return None
        attributes = {"kvnode.shard": shard, "kvnode.term": term, "kvnode.index": index}
        span = self._tracer.start_span("kvnode.propose", attributes=attributes)
        context = span.get_span_context()
        if context.is_valid:
            self._latest[shard] = (index, dict(metadata_of(context))[TRACEPARENT])
        return span

    def carried_by(self, appends: replication_pb2.AppendRequest) -> str:
        """The `traceparent` for an append that carries a sampled proposal; empty otherwise."""
        if self._latest:
            for append in appends.appends:
                index, traceparent = self._latest.get(append.shard, (0, ""))
                if append.previous_index < index <= append.previous_index + len(append.entries):
                    return traceparent
        return ""

    def start_append(self, traceparent: str, leader: NodeName, entries: int) -> Span | None:
        """A follower's span from an append's arrival until it is durable; the caller ends it."""
        if not traceparent:
            return None
        attributes: dict[str, str | int] = {"kvnode.leader": leader, "kvnode.entries": entries}
        context = extract([(TRACEPARENT, traceparent)])
        return self._tracer.start_span("kvnode.append", context=context, kind=SpanKind.SERVER, attributes=attributes)
