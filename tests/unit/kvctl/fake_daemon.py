"""A daemon for tests of the playground: reads a configuration file, listens, and answers `Cluster.Topology` and `Status`.

Run as a program: `fake_daemon.py CONFIG`. It leads nothing itself: n1 leads every shard, from the start.
"""

from __future__ import annotations

import signal
import sys
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from kvapi.v1 import cluster_pb2, cluster_pb2_grpc, kv_pb2, message_pb2


class FakeDaemon(cluster_pb2_grpc.ClusterServicer):
    """What the configuration says, as a cluster of which n1 leads everything."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.name, self.cluster = config["node"]["name"], config["cluster"]

    def Topology(self, request: cluster_pb2.TopologyRequest, context: grpc.ServicerContext) -> cluster_pb2.TopologyResponse:
        """All shards, led by n1."""
        replicas = list(self.cluster["members"])
        shards = [
            cluster_pb2.ShardPlacement(shard=shard, leader="n1", term=1, replicas=replicas)
            for shard in range(self.cluster["shards"])
        ]
        return cluster_pb2.TopologyResponse(cluster_id=self.cluster["id"], shards=shards)

    def Status(self, request: cluster_pb2.StatusRequest, context: grpc.ServicerContext) -> cluster_pb2.StatusResponse:
        """Everything applied."""
        role = kv_pb2.ROLE_LEADER if self.name == "n1" else kv_pb2.ROLE_FOLLOWER
        shards = [
            cluster_pb2.ShardStatus(shard=shard, role=role, leader="n1", applied_index=5)
            for shard in range(self.cluster["shards"])
        ]
        node = cluster_pb2.Member(name=self.name, state=message_pb2.NODE_STATE_ACTIVE)
        return cluster_pb2.StatusResponse(node=node, shards=shards)


def main(path: str) -> None:
    """Serve until SIGTERM."""
    config = tomllib.loads(Path(path).read_text())
    server = grpc.server(ThreadPoolExecutor(2))
    cluster_pb2_grpc.add_ClusterServicer_to_server(FakeDaemon(config), server)  # type: ignore[abstract]
    server.add_insecure_port(config["node"]["listen"])
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    server.start()
    stopped.wait()
    server.stop(None)


if __name__ == "__main__":
    main(sys.argv[1])
