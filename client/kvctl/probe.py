"""Asks every node of a cluster what it thinks, for readiness checks and status tables.

Owns short-lived gRPC channels, one a node. Never changes anything, never follows redirects: it wants each node's own answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from kvapi.v1 import cluster_pb2, cluster_pb2_grpc

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 250),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.use_local_subchannel_pool", 1),
]
"""A node that is just starting refuses connections for a moment: ask again soon."""

Answer = TypeVar("Answer")


class ClusterProbe:
    """Asks nodes by name; a node that does not answer in time is simply absent from the result."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        """`addresses`: node name -> "host:port"."""
        self.addresses = dict(addresses)
        self._channels = {name: grpc.insecure_channel(address, CHANNEL_OPTIONS) for name, address in addresses.items()}
        self._stubs = {name: cluster_pb2_grpc.ClusterStub(channel) for name, channel in self._channels.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for channel in self._channels.values():
            channel.close()

    def status(self, names: Iterable[str], timeout_s: float = 1.0) -> dict[str, cluster_pb2.StatusResponse]:
        """`Cluster.Status` of each node that answers within `timeout_s` seconds; all are asked at once."""
        return self._ask(names, lambda stub: stub.Status.future(cluster_pb2.StatusRequest(), timeout=timeout_s))

    def topology(self, names: Iterable[str], timeout_s: float = 1.0) -> dict[str, cluster_pb2.TopologyResponse]:
        """`Cluster.Topology` as each node that answers sees it."""
        return self._ask(names, lambda stub: stub.Topology.future(cluster_pb2.TopologyRequest(), timeout=timeout_s))

    def _ask(self, names: Iterable[str], call: Callable[[cluster_pb2_grpc.ClusterStub], Any]) -> dict[str, Any]:
        futures = {name: call(self._stubs[name]) for name in names}
        answers: dict[str, Any] = {}
        for name, future in futures.items():
            try:
                answers[name] = future.result()
            except grpc.RpcError:
                pass
        return answers


def missing_to_serve(names: Iterable[str], views: Mapping[str, cluster_pb2.TopologyResponse], shards: int) -> list[str]:
    """What a cluster still lacks, in words; empty when it serves: every node answers, every shard has a leader, and all
    its replicas know the same one. (A node without a replica of the shard only guesses.)
    """
    missing = [f"{name} does not answer" for name in names if name not in views]
    leaders: dict[int, set[str]] = {shard: set() for shard in range(shards)}
    for name, view in views.items():
        for placement in view.shards:
            if name in placement.replicas:
                leaders.setdefault(placement.shard, set()).add(placement.leader)
    leaderless = [str(shard) for shard, known in sorted(leaders.items()) if not known or "" in known]
    disputed = [str(shard) for shard, known in sorted(leaders.items()) if len(known) > 1 and "" not in known]
    if leaderless and views:
        missing.append(f"no leader known everywhere for shard {', '.join(leaderless)}")
    if disputed:
        missing.append(f"nodes name different leaders for shard {', '.join(disputed)}")
    return missing


def shards_behind(name: str, statuses: Mapping[str, cluster_pb2.StatusResponse]) -> list[int]:
    """Shards in which a node has applied less than their leader (`statuses` of the leaders taken before the node's own).
    A shard without a known leader counts as behind.
    """
    applied_by_leader: dict[int, int] = {}
    for status in statuses.values():
        for shard in status.shards:
            if shard.leader == status.node.name:
                applied_by_leader[shard.shard] = max(shard.applied_index, applied_by_leader.get(shard.shard, 0))
    return [
        shard.shard
        for shard in statuses[name].shards
        if shard.shard not in applied_by_leader or shard.applied_index < applied_by_leader[shard.shard]
    ]
