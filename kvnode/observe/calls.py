"""Calls of the public services, from arrival to answer: their trace, their timeline, and the stages that they may ask for.

Owns what metadata say about that: W3C Trace Context, and `x-kvnode-timing: 1`, which asks for the stages in the trailing
metadata. Never looks into requests. Invariants: every call has a trace id in its task's context, sampled or not, so that log
lines of all nodes can be joined; who began a trace decides whether it is sampled, everybody else follows.

The semantic conventions for spans of RPCs: https://opentelemetry.io/docs/specs/semconv/rpc/grpc/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from opentelemetry.context import attach

from kvnode.observe.outcomes import outcome_of, status_name
from kvnode.observe.recorder import Recorder
from kvnode.observe.stages import Timeline, server_timing
from kvnode.observe.tracing import TRACEPARENT, TRACESTATE, Tracing, child_of, context_of, span_context_of

TIMING = "x-kvnode-timing"
HOPS = "kvnode-hops"
"""Metadata of a forwarded request."""


class Headers(NamedTuple):
    """What a call's metadata say to us."""

    traceparent: str | bytes = ""
    tracestate: str | bytes = ""
    hops: str | bytes = ""
    wants_timing: bool = False


def headers_of(metadata: Sequence[tuple[str, str | bytes]] | None) -> Headers:
    """In one pass: most calls have none of them."""
    parent: str | bytes = ""
    state: str | bytes = ""
    hops: str | bytes = ""
    timing = False
    for key, value in metadata or ():
        if key == TRACEPARENT:
            parent = value
        elif key == TRACESTATE:
            state = value
        elif key == HOPS:
            hops = value
        elif key == TIMING:
            timing = value in ("1", b"1")
    return Headers(parent, state, hops, timing)


class Calls:
    """Of one node."""

    def __init__(self, recorder: Recorder, tracing: Tracing) -> None:
        self._recorder, self._tracing = recorder, tracing

    def arrive(self, operation: str, consistency: int, headers: Headers, call: Any) -> Timeline:
        """A call arrives, in the task that serves it alone."""
        remote = span_context_of(headers.traceparent, headers.tracestate or None) if headers.traceparent else None
        span = self._tracing.begin() if remote is None else child_of(remote)
        if span is not None:
            attach(context_of(span))  # It ends with the task.
        timeline = self._recorder.begin(operation, consistency, span, remote)
        timeline.peer = call.peer()
        return timeline

    def operation(self, operation: str, consistency: int, batch: Timeline, traceparent: str, number: int) -> Timeline:
        """One operation of a batch, in a task of its own; a `traceparent` of its own makes it part of that trace."""
        remote = span_context_of(traceparent) if traceparent else None
        span = None
        if remote is not None:
            span = child_of(remote)
            attach(context_of(span))
        timeline = self._recorder.begin(operation, consistency, span, remote or batch.span)
        timeline.describe("kvnode.batch.index", number)
        return timeline

    def end(self, timeline: Timeline, outcome: str = "OK", code: int = 0) -> None:
        """An operation of a batch has ended."""
        self._recorder.end(timeline, outcome, status_name(code))

    def fail(self, timeline: Timeline, error: BaseException) -> None:
        """An operation of a batch got no answer: its call ended first."""
        self._recorder.end(timeline, *outcome_of(error))

    def leave(self, timeline: Timeline, error: BaseException | None, headers: Headers) -> tuple[tuple[str, str], ...]:
        """A call is answered, or has failed: its trailing metadata."""
        self._recorder.end(timeline, *outcome_of(error))
        return ((TIMING, server_timing(timeline)),) if headers.wants_timing else ()
