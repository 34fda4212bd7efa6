"""What `kvapi.v1.Cluster` tells of the node's own work: latency, traces, metrics, and what availability is computed from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kvapi.v1 import cluster_pb2, observability_pb2
from kvnode.errors import InvalidRequest
from kvnode.protocol.raft import leadership

if TYPE_CHECKING:
    from kvnode.node import Node


class Observation:
    """Answers from what the node's parts recorded."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def availability(self, request: cluster_pb2.AvailabilityRequest) -> cluster_pb2.AvailabilityResponse:
        """Failures, leaderships, outcomes."""
        node = self._node
        at_ms, now, history = node.ports.wall_ms(), node.loop.time(), node.membership.history
        response = cluster_pb2.AvailabilityResponse(
            node=node.me.node,
            at_ms=at_ms,
            started_ms=self._started_ms(at_ms),
            events=history.events,
            leaderships=history.leaderships,
        )
        for (operation, consistency, outcome), count in node.observer.recorder.outcomes.items():
            response.outcomes.add(operation=operation, consistency=consistency, outcome=outcome, count=count)
        for shard, replica in node.replicas.items():
            if waits := leadership.without_leader(replica.raft):
                previous, since = waits
                response.without_leader.add(shard=shard, since_ms=int((now - since) * 1000), previous=previous)
        return response

    def _started_ms(self, at_ms: int) -> int:
        return at_ms - int((self._node.loop.time() - self._node.started_at) * 1000)

    async def latency(self, request: observability_pb2.LatencyRequest) -> observability_pb2.LatencyResponse:
        """How long requests took."""
        node = self._node
        at_ms = node.ports.wall_ms()
        response = observability_pb2.LatencyResponse(
            node=node.me.node, incarnation=node.me.incarnation, at_ms=at_ms, since_ms=self._started_ms(at_ms)
        )
        for (operation, consistency, stage), histogram in node.observer.recorder.latency.items():
            response.series.add(
                operation=operation,
                consistency=consistency,
                stage=stage,
                histogram=histogram.to_pb(),
            )
        return response

    async def stats(self, request: observability_pb2.StatsRequest) -> observability_pb2.StatsResponse:
        """The metrics."""
        return observability_pb2.StatsResponse(node=self._node.me.node, metrics=await self._node.metrics.text())

    async def traces(self, request: observability_pb2.TracesRequest) -> observability_pb2.TracesResponse:
        """The latest traces."""
        if request.trace_id and not re.fullmatch(r"[0-9a-f]{32}", request.trace_id):
            raise InvalidRequest("trace_id", f"{request.trace_id[:64]!r} is none: it has 32 hex digits, in lower case")
        observer = self._node.observer
        observer.recorder.flush()
        trace_id = int(request.trace_id, 16) if request.trace_id else 0
        # (Thousands of spans become text: on a thread, where nobody waits for it.)
        lines = await self._node.loop.run_in_executor(None, observer.tracing.latest, trace_id, request.limit)
        return observability_pb2.TracesResponse(node=self._node.me.node, lines=lines)
