"""What `kvapi.v1.Cluster` tells of the node's own work: latency, traces, metrics, and what availability is computed from."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kvapi.v1 import cluster_pb2, observability_pb2

if TYPE_CHECKING:
    from kvnode.node import Node


class Observation:
    """Answers from what the node's parts recorded."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def availability(self, request: cluster_pb2.AvailabilityRequest) -> cluster_pb2.AvailabilityResponse:
        """Failures, leaderships, outcomes."""
        node = self._node
        at_ms = node.ports.wall_ms()
        started_ms = at_ms - int((node.loop.time() - node.started_at) * 1000)
        return cluster_pb2.AvailabilityResponse(
            node=node.me.node, at_ms=at_ms, started_ms=started_ms, events=node.membership.events
        )

    async def latency(self, request: observability_pb2.LatencyRequest) -> observability_pb2.LatencyResponse:
        """How long requests took."""
        return observability_pb2.LatencyResponse(
            node=self._node.me.node, incarnation=self._node.me.incarnation, at_ms=time.time_ns() // 1_000_000
        )

    async def stats(self, request: observability_pb2.StatsRequest) -> observability_pb2.StatsResponse:
        """The metrics."""
        return observability_pb2.StatsResponse(node=self._node.me.node, metrics=await self._node.metrics.text())

    async def traces(self, request: observability_pb2.TracesRequest) -> observability_pb2.TracesResponse:
        """The latest traces."""
        return observability_pb2.TracesResponse(node=self._node.me.node)
