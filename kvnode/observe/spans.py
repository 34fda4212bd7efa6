"""Makes spans of what has ended already: requests from their timelines, and episodes such as elections.

Owns the shape of a request's spans: which there are, their names, parents and attributes (semantic conventions for RPC and
databases). Never on a request's way: it is called afterwards, for the requests that are kept. Followers' appends are told by
the leader from what their answers said, so a request that nobody sampled is explained as well as one that was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from kvapi.v1 import kv_pb2
from kvnode.observe.log_times import FollowerAppend, LogTimes, LogWrite
from kvnode.observe.stages import LOG_WRITE, Stage, Timeline
from kvnode.observe.tracing import Tracing, child_of, root

LINKS_MAX = 128
"""Of a span: the SDKs' limit. Who is not linked is found by `kvnode.batch.id`."""
BLAMED = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""gRPC statuses that mean an error of the server (semantic conventions for gRPC)."""
CLOCK_STEP_NS = 5_000_000
"""Clocks that differ by less than they did are not compared anew."""
CONSISTENCIES: dict[int, str] = {
    kv_pb2.CONSISTENCY_EVENTUAL: "eventual",
    kv_pb2.CONSISTENCY_STRONG: "strong",
    kv_pb2.CONSISTENCY_SESSION: "session",
    kv_pb2.CONSISTENCY_BOUNDED: "bounded",
}
_OK, _ERROR = Status(), Status(StatusCode.ERROR)


class Spans:
    """Of one node."""

    def __init__(self, tracing: Tracing, times: LogTimes, wall_ns: Callable[[], int] = time.time_ns) -> None:
        """`wall_ns`: Unix nanoseconds."""
        self._tracing, self._times, self._wall_ns = tracing, times, wall_ns
        self.failed_nodes: Callable[[], Sequence[str]] = tuple
        """Who is FAILED now, as this node sees it."""
        self._scope = InstrumentationScope("kvnode", tracing.version)
        self._offset_ns = 0
        """From the clock of stages to the wall clock."""

    # ---- requests ----------------------------------------------------------------------------------------------------

    def request(self, timeline: Timeline, outcome: str, status: str, why: str) -> None:
        """The spans of a request that is kept because of `why`, which ended with a gRPC status and the reason `outcome`."""
        self._compare_clocks()
        if timeline.span is None:
            timeline.span = child_of(timeline.parent) if timeline.parent else root()
        span = _sampled(timeline.span)
        attributes = self._attributes(timeline, outcome, status, why)
        is_error = status in BLAMED
        is_call = timeline.peer is not None
        made = [
            self._span(
                method_of(timeline) if is_call else _name(timeline.operation),
                span,
                timeline.parent,
                timeline.began,
                timeline.ended,
                attributes,
                SpanKind.SERVER if is_call else SpanKind.INTERNAL,
                _ERROR if is_error else _OK,
            )
        ]
        made += [self._stage(span, stage) for stage in timeline.stages()]
        for aside in timeline.asides or ():
            attributes = dict(aside.attributes)
            made.append(self._span(aside.name, _sampled(aside.span), aside.parent, aside.start, aside.end, attributes))
        if timeline.log is not None:
            shard, index = timeline.log
            commit = self._times.commit_of(shard, index)
            appends = self._times.appends_of(shard, index)
            made += [self._append(span, peer, one, commit is not None and commit.by == peer) for peer, one in appends.items()]
        self._tracing.emit(made)

    def _attributes(self, timeline: Timeline, outcome: str, status: str, why: str) -> dict[str, Any]:
        attributes: dict[str, Any] = {"kvnode.kept": why}
        if timeline.peer is not None:
            address, port = _peer(timeline.peer)
            attributes |= {"rpc.system.name": "grpc", "rpc.method": method_of(timeline), "rpc.response.status_code": status}
            attributes |= self._tracing.server
            attributes |= {"network.peer.address": address, "network.peer.port": port}
        if timeline.operation.isalpha():
            attributes |= {"db.system.name": "kvnode", "db.operation.name": timeline.operation.capitalize()}
        if timeline.consistency:
            attributes["kvnode.consistency"] = CONSISTENCIES.get(timeline.consistency, str(timeline.consistency))
        if timeline.shard is not None:
            attributes["kvnode.shard"] = timeline.shard
        if timeline.attributes:
            attributes |= timeline.attributes
        if outcome != "OK":
            attributes["db.response.status_code"] = outcome
            if status in BLAMED:
                attributes["error.type"] = outcome
        failed = self.failed_nodes()
        if failed:
            attributes["kvnode.nodes.failed"] = list(failed)
        return attributes

    def _stage(self, parent: SpanContext, stage: Stage) -> ReadableSpan:
        attributes: dict[str, Any] = {"kvnode.stage": stage.name}
        if isinstance(stage.attributes, LogWrite):
            attributes |= self._batch(stage.attributes)
        elif stage.attributes:
            attributes |= stage.attributes
        span = _sampled(stage.span) if stage.span else child_of(parent)
        return self._span(stage.name, span, parent, stage.start, stage.end, attributes)

    def _append(self, parent: SpanContext, peer: str, append: FollowerAppend, is_decisive: bool) -> ReadableSpan:
        timing, whole_us = append.timing, int((append.answered - append.sent) * 1e6)
        attributes = {
            "kvnode.node": peer,
            "kvnode.quorum": is_decisive,
            "kvnode.append.total_us": timing.total_us,
            "kvnode.append.network_us": max(whole_us - timing.total_us, 0),
            "kvnode.append.log_queue_us": timing.log_queue_us,
            "kvnode.append.log_write_us": timing.log_write_us,
            "kvnode.append.fsync_us": timing.fsync_us,
        }
        return self._span("append", child_of(parent), parent, append.sent, append.answered, attributes)

    # ---- what is no request ------------------------------------------------------------------------------------------

    def log_batch(self, write: LogWrite, requests: Sequence[SpanContext]) -> None:
        """A group commit, linked to the requests in it that are kept."""
        attributes = {"kvnode.stage": LOG_WRITE, "kvnode.batch.requests": len(requests), **self._batch(write)}
        links = [Link(_sampled(request)) for request in requests[:LINKS_MAX]]
        self.episode("kvnode.log_batch", write.submitted, write.done, attributes, links)

    def _batch(self, write: LogWrite) -> dict[str, Any]:
        return {
            "kvnode.batch.id": self._times.batch_id(write),
            "kvnode.batch.records": write.records,
            "kvnode.log.write_us": int(write.write_s * 1e6),
            "kvnode.log.fsync_us": int(write.fsync_s * 1e6),
        }

    def episode(
        self,
        name: str,
        start: float,
        end: float,
        attributes: dict[str, Any],
        links: Sequence[Link] = (),
        *,
        parent: SpanContext | None = None,
        failed: bool = False,
    ) -> None:
        """A trace of its own (or a part of `parent`'s), from `start` to `end` in the clock's seconds."""
        self._compare_clocks()
        span = child_of(_sampled(parent)) if parent else root()
        status = _ERROR if failed else _OK
        self._tracing.emit([self._span(name, span, parent, start, end, attributes, status=status, links=links)])

    def _compare_clocks(self) -> None:
        """The wall clock may have been set, and the other one stands still while the machine sleeps. (Between such events both
        run alike, and spans do not jump by what reading them one after the other takes.)"""
        offset_ns = self._wall_ns() - int(self._times.clock() * 1e9)
        if abs(offset_ns - self._offset_ns) > CLOCK_STEP_NS:
            self._offset_ns = offset_ns

    def _span(
        self,
        name: str,
        span: SpanContext,
        parent: SpanContext | None,
        start: float,
        end: float,
        attributes: dict[str, Any],
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status = _OK,
        links: Sequence[Link] = (),
    ) -> ReadableSpan:
        return ReadableSpan(
            name=name,
            context=span,
            parent=parent,
            resource=self._tracing.resource,
            attributes=attributes,
            links=links,
            kind=kind,
            instrumentation_scope=self._scope,
            status=status,
            start_time=self._offset_ns + int(start * 1e9),
            end_time=self._offset_ns + int(end * 1e9),
        )


def _sampled(span: SpanContext) -> SpanContext:
    """The same identity; exporters take only what says that it is sampled."""
    if span.trace_flags & TraceFlags.SAMPLED:
        return span
    flags = TraceFlags(span.trace_flags | TraceFlags.SAMPLED)
    return SpanContext(span.trace_id, span.span_id, span.is_remote, flags, span.trace_state)


def method_of(timeline: Timeline) -> str:
    """The RPC of a request: of "put" "kvapi.v1.KV/Put", of "cluster.Status" "kvapi.v1.Cluster/Status"."""
    service, _, method = timeline.operation.rpartition(".")
    return f"kvapi.v1.{service.capitalize()}/{method}" if service else f"kvapi.v1.KV/{method.capitalize()}"


def _name(operation: str) -> str:
    """Of what is no call of its own: an operation of a batch, as "Put", or a shard's part of a transaction, as "prepare"."""
    return operation.rpartition("/")[2] if "/" in operation else operation.capitalize()


def _peer(peer: str) -> tuple[str, int]:
    """Address and port of grpc's "ipv4:127.0.0.1:1234" or "ipv6:%5B::1%5D:1234"; port 0 where there is none."""
    host, _, port = peer.partition(":")[2].rpartition(":")
    return (host.replace("%5B", "").replace("%5D", ""), int(port)) if port.isdigit() else (peer, 0)
