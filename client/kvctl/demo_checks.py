"""What the demo asks its cluster, beside the load: leaders, lags, agreement, and the fate of one eventual write.

Owns no plot and prints nothing. The methods that block are for a thread; all waits are bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import kvclient
from kvapi.v1 import cluster_pb2
from kvctl.playground import Playground, PlaygroundError
from kvctl.probe import ClusterProbe

CONVERGENCE_TIMEOUT_S = 15.0
POLL_INTERVAL_S = 0.02
NODE_TIMEOUT_S = 2.0
"""For one node's answer."""

Answer = TypeVar("Answer")


class Checks:
    """Questions to a playground's cluster."""

    def __init__(self, playground: Playground) -> None:
        self.playground = playground

    def _probe(self) -> ClusterProbe:
        return ClusterProbe({node.name: node.address for node in self.playground.nodes})

    def topology(self) -> cluster_pb2.TopologyResponse:
        """The shard map, from any node."""
        with self._probe() as probe:
            return next(iter(probe.topology(self.playground.names).values()))

    def entries_behind(self, name: str) -> int:
        """How many log entries a node has yet to apply, over all shards."""
        with self._probe() as probe:
            statuses = probe.status(self.playground.names)
        most: dict[int, int] = {}
        for status in statuses.values():
            for shard in status.shards:
                most[shard.shard] = max(most.get(shard.shard, 0), shard.commit_index)
        return (
            sum(max(0, most[shard.shard] - shard.applied_index) for shard in statuses[name].shards) if name in statuses else 0
        )

    def catch_up(self, name: str) -> float | None:
        """Seconds until a node has applied what the leaders had; None if it does not."""
        try:
            return self.playground.wait_caught_up(name, CONVERGENCE_TIMEOUT_S)
        except PlaygroundError:
            return None

    def agreement(self) -> tuple[int, float]:
        """Wait until all replicas of all shards are equal: (shards that are, seconds)."""
        began = time.monotonic()
        with self._probe() as probe:
            while True:
                seen: dict[int, set[tuple[int, int]]] = {}
                statuses = probe.status(self.playground.names)
                for status in statuses.values():
                    for shard in status.shards:
                        seen.setdefault(shard.shard, set()).add((shard.applied_index, shard.state_hash))
                equal = sum(len(states) == 1 for states in seen.values()) if len(statuses) == len(self.playground.names) else 0
                if equal == self.playground.shards or time.monotonic() - began > CONVERGENCE_TIMEOUT_S:
                    return equal, time.monotonic() - began
                time.sleep(POLL_INTERVAL_S)

    async def settled(self, client: kvclient.AsyncClient, operation_id: str) -> kvclient.OperationResult | None:
        """Wait until an eventual write has its place in the log. Returns the last answer; None: there was none."""
        deadline = time.monotonic() + CONVERGENCE_TIMEOUT_S
        result = None
        while time.monotonic() < deadline:
            try:
                result = await client.operation(operation_id, timeout=NODE_TIMEOUT_S)
                if result.state not in (kvclient.OperationState.PENDING, kvclient.OperationState.UNKNOWN):
                    break
            except kvclient.KvError:
                pass  # an election, or a node that has just come back: ask again
            await asyncio.sleep(POLL_INTERVAL_S)
        return result

    async def patiently(self, operation: Callable[[], Awaitable[Answer]]) -> Answer:
        """Try until it works: a cluster that has just started may need an election first. Only for what may happen twice."""
        deadline = time.monotonic() + CONVERGENCE_TIMEOUT_S
        while True:
            try:
                return await operation()
            except kvclient.KvError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(POLL_INTERVAL_S)
