"""OpenTelemetry: where the time of an operation went, and W3C Trace Context for the nodes.

Owns the spans, their times, and the names of their attributes (semantic conventions for databases and RPC, current names).
Depends on the API alone: without an SDK, or for a trace that is not sampled, an operation costs one check.

A recorded operation is a CLIENT span; below it are the stages of its attempts, INTERNAL spans without gaps, each from where the
one before it ended:

    client.open    the first operation of a client waits for the map of the cluster
    client.queue   until it leaves: it is routed, then it waits for a slot of the node's lane
    client.call    from leaving to the answer; the node's spans are its children
    client.resume  the answer of a coalesced operation is here, its caller has not gone on yet: the process is busy
    client.pause   before another attempt

An RPC that carries several operations has a CLIENT span "Batch", linked to those that are recorded. A batch of the user's is
one recorded operation with as many `client.call` as RPCs took part of it, so its stages may overlap.

Times are read from the monotonic clock; one offset for all spans of an operation makes them wall-clock times, so that no step
of that clock shows in a duration.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import math
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from kvapi.v1 import kv_pb2
from kvclient._requests import BATCH, Call, Method
from kvclient._status import outcome_of
from kvclient.errors import KvError
from kvclient.types import Consistency

Metadata = tuple[tuple[str, str], ...]
Attributes = dict[str, AttributeValue]

ASK_AGAIN = 64
"""Operations after which a client that found no tracing set up looks again."""
OFFSET_S_MAX = 1.0
"""How old the offset between the clocks may be."""
LINKS_MAX = 128
"""Of one span: what SDKs keep by default. Operations beyond it are found by `kvnode.batch.id`."""

OPEN, QUEUE, CALL, RESUME, PAUSE = "client.open", "client.queue", "client.call", "client.resume", "client.pause"


class Place:
    """How spans name the node at "host:port"."""

    __slots__ = ("peer", "server")

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        self.server: Attributes = {"server.address": host} | ({"server.port": int(port)} if port.isdecimal() else {})
        self.peer = self.server
        """The same, with the peer of the connection where it is known: where the host is no name."""
        with contextlib.suppress(ValueError):
            peer = str(ipaddress.ip_address(host))
            self.peer = {**self.server, "network.peer.address": peer, "network.peer.port": int(port)}


class Tracing:
    """Makes spans with one tracer."""

    def __init__(self, tracer_provider: trace.TracerProvider | None = None) -> None:
        self._provider = tracer_provider
        self._found: Tracer | None = None
        self._asked = 0
        self._offset_ns = 0
        self._offset_until = -math.inf

    def start(self, call: Call) -> Recording | None:
        """The recording of an operation that began; None if it is not recorded."""
        tracer = self._tracer()
        if tracer is None:
            return None
        recording = self._record(tracer, call.method, call.consistency, call.started)
        if recording is not None and call.key is not None:
            recording.facts["kvnode.key.size"] = len(call.key)
        return recording

    def start_many(self, calls: Sequence[Call], started: float) -> Recording | None:
        """The same for a batch of the user's, as one operation."""
        tracer = self._tracer()
        if tracer is None or not calls:
            return None
        levels = {call.consistency for call in calls}
        recording = self._record(tracer, BATCH, levels.pop() if len(levels) == 1 else None, started)
        if recording is not None and len(calls) > 1:
            recording.facts["db.operation.batch.size"] = len(calls)
        return recording

    def _record(self, tracer: Tracer, method: Method, consistency: Consistency | None, started: float) -> Recording | None:
        if started > self._offset_until:
            self._offset_ns, self._offset_until = _offset_ns(), started + OFFSET_S_MAX
        offset_ns = self._offset_ns
        span = tracer.start_span(
            method.name,
            kind=SpanKind.CLIENT,
            attributes=_described(method, consistency),
            start_time=offset_ns + int(started * 1e9),
        )
        return Recording(tracer, span, offset_ns, started) if span.is_recording() else None

    def _tracer(self) -> Tracer | None:
        """None: nobody set up tracing (yet; asked again now and then, since asking costs more than the rest)."""
        if self._found is None:
            self._asked += 1
            if self._asked % ASK_AGAIN == 1:
                provider = self._provider or trace.get_tracer_provider()
                if not isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
                    self._found = provider.get_tracer("kvclient")
        return self._found


class Recording:
    """One recorded operation: its span, and the stage that it is in.

    Its caller drives it, save for `leave` and `answer`, which come from whoever drives the lane. On threads a caller may give
    up at the moment when its operation leaves: the `client.call` is then never ended, and so not exported.
    """

    __slots__ = (
        *("_at", "_attempt", "_attempt_at", "_context", "_offset_ns", "_open", "_paused_by", "_stage", "_tracer"),
        *("facts", "span"),
    )

    def __init__(self, tracer: Tracer, span: Span, offset_ns: int, started: float) -> None:
        self.span = span
        self.facts: Attributes = {}
        """Attributes that the operation's span gets when it ends."""
        self._tracer = tracer
        self._context = trace.set_span_in_context(span)
        self._offset_ns = offset_ns
        self._stage = ""
        self._at = self._attempt_at = started
        """When the last stage ended, and when the attempt began; monotonic seconds."""
        self._attempt = 1
        self._paused_by = ""
        self._open: set[Span] = set()
        """The calls under way. Whoever takes one out ends it."""

    def open(self) -> None:
        """Wait for the map of the cluster."""
        self._stage = OPEN

    def begin(self, attempt: int, shard: int | None) -> None:
        """Attempt number `attempt` begins, for a key of `shard` if that is known."""
        self.settle()
        self._attempt, self._attempt_at, self._stage = attempt, self._at, QUEUE
        if shard is not None:
            self.facts["kvnode.shard"] = shard

    def leave(self, at: float, place: Place, facts: Mapping[str, AttributeValue]) -> Span:
        """The operation leaves for `place`; returns the span of its call."""
        self._emit(QUEUE, self._attempt_at, at)
        self._at, self._stage = at, CALL
        self.facts |= place.peer
        described = {"kvnode.stage": CALL, "kvnode.attempt": self._attempt, **place.server, **facts}
        call = self.start_below(CALL, at, described)
        self._open.add(call)
        return call

    def answer(self, call: Span, at: float, error: BaseException | None) -> None:
        """The call ended, before its caller goes on; nothing if that one has left already."""
        if self._end_call(call, at, error):
            self._at = at
            if not self._open:
                self._stage = RESUME

    def settle(self, error: BaseException | None = None) -> None:
        """The stage, and with it as a rule the attempt, is over for its caller: well, or with `error`."""
        now = time.monotonic()
        for call in tuple(self._open):
            self._end_call(call, now, error)
        if self._stage and self._stage != CALL:
            self._emit(self._stage, self._at, now, error if self._stage != RESUME else None)
        if self._stage:
            self._at, self._stage = now, ""

    def pause(self, error: KvError) -> None:
        """Wait before another attempt, because of `error`."""
        self._stage, self._paused_by = PAUSE, error.reason

    def end(self, attempts: int, error: BaseException | None) -> None:
        """The operation ended, well or with `error`: where its last stage did."""
        self.settle(error)
        self.facts["kvnode.attempts"] = attempts
        if error is None:
            self.facts["rpc.response.status_code"] = "OK"
        elif isinstance(error, KvError):
            self.facts["rpc.response.status_code"] = error.code.name
            self.facts["db.response.status_code"] = error.reason
        self.span.set_attributes(self.facts)
        self._close(self.span, self._at, error)

    def start_below(
        self, name: str, at: float, described: Attributes, kind: SpanKind = SpanKind.INTERNAL, links: Sequence[Link] = ()
    ) -> Span:
        """A child of the operation's span that began at `at`."""
        return self._tracer.start_span(
            name, context=self._context, kind=kind, attributes=described, links=links, start_time=self.wall_ns(at)
        )

    def wall_ns(self, at: float) -> int:
        """Unix nanoseconds of a monotonic time."""
        return self._offset_ns + int(at * 1e9)

    def _end_call(self, call: Span, at: float, error: BaseException | None) -> bool:
        try:
            self._open.remove(call)
        except KeyError:
            return False
        self._close(call, at, error)
        return True

    def _emit(self, stage: str, since: float, until: float, error: BaseException | None = None) -> None:
        described: Attributes = {"kvnode.stage": stage, "kvnode.attempt": self._attempt}
        if stage == PAUSE:
            described["error.type"], error = self._paused_by, None
        self._close(self.start_below(stage, since, described), until, error)

    def _close(self, span: Span, at: float, error: BaseException | None) -> None:
        _end(span, self.wall_ns(at), error)


class Departure:
    """The spans of one RPC that carries queued operations: a `client.call` for each that is recorded, and its own if it is a
    Batch."""

    def __init__(self, indexes: Mapping[Recording, Sequence[int]], size: int, at: float, place: Place) -> None:
        self._first = next(iter(indexes))
        self._batch: Span | None = None
        self._legs: list[tuple[Recording, Span, Sequence[int]]] = []
        """Who, its call, and which of the RPC's operations are its own: several if they are of one batch of the user's."""
        common: Attributes = {}
        if size > 1:
            self._batch = _start_batch(self._first, indexes, size, at, place)
            common = {"kvnode.batch.id": f"{self._batch.get_span_context().span_id:016x}", "kvnode.batch.size": size}
            self._batch.set_attribute("kvnode.batch.id", common["kvnode.batch.id"])
        for recording, own in indexes.items():
            facts = dict(common)
            if len(own) > 1:
                facts["db.operation.batch.size"] = len(own)
            elif size > 1:
                facts["kvnode.batch.index"] = own[0]
            self._legs.append((recording, recording.leave(at, place, facts), own))

    @property
    def metadata(self) -> Metadata | None:
        """Of the RPC."""
        return metadata_of(self._batch if self._batch is not None else self._legs[0][1])

    def mark(self, request: kv_pb2.BatchRequest) -> None:
        """Give each recorded operation of the Batch its own trace context."""
        for _, call, own in self._legs:
            traceparent = _traceparent(call.get_span_context())
            for index in own:
                request.operations[index].traceparent = traceparent

    def end(self, at: float, error: KvError | None, errors: Sequence[KvError | None]) -> None:
        """The RPC ended, well or with `error`, and its operations with `errors`."""
        if self._batch is not None:
            self._batch.set_attribute("rpc.response.status_code", "OK" if error is None else error.code.name)
            _end(self._batch, self._first.wall_ns(at), error)
        for recording, call, own in self._legs:
            recording.answer(call, at, next((errors[index] for index in own if errors[index] is not None), None))


def leave(calls: Sequence[Call], at: float, place: Place) -> Departure | None:
    """One RPC to `place` carries `calls`, from the lane, at `at`. None if none of them is recorded."""
    indexes: dict[Recording, list[int]] = {}
    for index, call in enumerate(calls):
        if call.recording is not None:
            indexes.setdefault(call.recording, []).append(index)
    return Departure(indexes, len(calls), at, place) if indexes else None


def metadata_of(span: Span | None) -> Metadata | None:
    """W3C Trace Context of `span`, or of the caller's current span; None if there is neither."""
    context = (span or trace.get_current_span()).get_span_context()
    if not context.is_valid:
        return None
    if context.trace_state:
        return (("traceparent", _traceparent(context)), ("tracestate", context.trace_state.to_header()))
    return (("traceparent", _traceparent(context)),)


def _offset_ns() -> int:
    """What makes a monotonic time a Unix time. An interruption between the two readings makes it too small, so: the largest."""
    return max(time.time_ns() - time.monotonic_ns() for _ in range(3))


def _start_batch(first: Recording, recordings: Mapping[Recording, object], size: int, at: float, place: Place) -> Span:
    """The span of a Batch, below the first recorded operation in it, linked to all of them."""
    links = [Link(recording.span.get_span_context()) for recording in list(recordings)[:LINKS_MAX]]
    described = {**_described(BATCH, None), "db.operation.batch.size": size, **place.peer}
    if len(recordings) > LINKS_MAX:
        described["kvnode.batch.unlinked"] = len(recordings) - LINKS_MAX
    return first.start_below(BATCH.name, at, described, SpanKind.CLIENT, links)


@functools.cache
def _described(method: Method, consistency: Consistency | None) -> Mapping[str, AttributeValue]:
    """What is known of an operation before it begins."""
    described: Attributes = {
        "db.system.name": "kvnode",
        "db.operation.name": method.name,
        "rpc.system.name": "grpc",
        "rpc.method": f"{method.service}/{method.name}",
    }
    if consistency is not None:
        described["kvnode.consistency"] = consistency.name.lower()
    return MappingProxyType(described)


def _end(span: Span, end_time: int, error: BaseException | None) -> None:
    if error is not None:
        span.set_attribute("error.type", outcome_of(error))
        span.set_status(Status(StatusCode.ERROR, str(error)))
    span.end(end_time)


def _traceparent(context: trace.SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 0xFF:02x}"
