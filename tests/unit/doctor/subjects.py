"""Nodes for the doctor's tests: configurations, data directories as a stopped node leaves them, and a peer that answers."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

import kvwire
from kvapi.v1 import cluster_pb2, cluster_pb2_grpc, observability_pb2
from kvnode import __version__
from kvnode.config import Config
from kvnode.doctor.finding import Finding, Level
from kvnode.doctor.subject import Subject
from kvnode.runtime.recovery import IDENTITY_RECORD, Identity
from kvnode.storage import data_format
from kvnode.storage.disk import RealDisk
from kvnode.storage.log import Log
from kvnode.storage.records import NodeRecord, Record
from kvnode.storage.store import LmdbStore

MEMBERS = {"n1": "10.0.0.1:7401", "n2": "10.0.0.2:7401", "n3": "10.0.0.3:7401"}
SEGMENT_SIZE_BYTES = 64 * 1024


def make_config(data_dir: object = "nowhere", **settings: str) -> Config:
    """A valid one of three members, this node the first; `settings` are named as `section__field`."""
    members = {f"cluster.members.{name}": address for name, address in MEMBERS.items()}
    flags = {
        "node.name": "n1",
        "node.listen": MEMBERS["n1"],
        "node.data_dir": str(data_dir),
        "cluster.id": "orders",
        "storage.segment_size_bytes": str(SEGMENT_SIZE_BYTES),
        "storage.ballast_size_bytes": str(SEGMENT_SIZE_BYTES),
        **members,
        **{name.replace("__", "."): value for name, value in settings.items()},
    }
    return Config.load(None, flags, {})


def make_subject(data_dir: Path, pid: int = 0, **settings: str) -> Subject:
    """That node, as this user runs it."""
    return Subject(make_config(data_dir, **settings), "", str(data_dir), os.geteuid(), pid)


def stopped_node(directory: Path, records: Iterable[Record] = (), identity: Identity | None = None) -> None:
    """What a node that was started once leaves in its data directory."""
    disk = RealDisk(directory)
    data_format.settle(disk, str(directory))
    store = LmdbStore(directory / "store", 1024**3)
    log = Log(disk, SEGMENT_SIZE_BYTES)
    list(log.recover())
    log.write([NodeRecord(IDENTITY_RECORD, (identity or Identity("orders", "n1", "uid", 1, 8)).encode())])
    log.write(list(records))
    log.close()
    store.close()
    disk.close_all()


def state_of(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file with its length, its time and its bytes: what a check must leave as it was."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def levels(findings: Iterable[Finding]) -> list[tuple[str, Level]]:
    """Names and levels alone."""
    return [(finding.name, finding.level) for finding in findings]


class FakeNode(cluster_pb2_grpc.ClusterServicer):
    """Answers what the doctor asks, as a node does (tests/integration/test_doctor.py asks real ones)."""

    def __init__(self, name: str = "n2", cluster_id: str = "orders", ahead: float = 0.0) -> None:
        """`ahead`: of its clock, in seconds."""
        self.name, self.cluster_id, self.ahead = name, cluster_id, ahead

    async def Topology(self, request: cluster_pb2.TopologyRequest, context: Any) -> cluster_pb2.TopologyResponse:
        """The members and eight shards."""
        return cluster_pb2.TopologyResponse(
            cluster_id=self.cluster_id,
            members=[cluster_pb2.Member(name=name, address=address) for name, address in MEMBERS.items()],
            shards=[cluster_pb2.ShardPlacement(shard=shard) for shard in range(8)],
        )

    async def Status(self, request: cluster_pb2.StatusRequest, context: Any) -> cluster_pb2.StatusResponse:
        """Itself."""
        return cluster_pb2.StatusResponse(node=cluster_pb2.Member(name=self.name), version=__version__, uptime_ms=90_000)

    async def Latency(self, request: observability_pb2.LatencyRequest, context: Any) -> observability_pb2.LatencyResponse:
        """The time."""
        return observability_pb2.LatencyResponse(node=self.name, at_ms=int((time.time() + self.ahead) * 1000))


@asynccontextmanager
async def serving(node: cluster_pb2_grpc.ClusterServicer | None, transport: str = "kvwire") -> AsyncIterator[str]:
    """The node at a port of its own, "host:port"; None: a gRPC server without the service."""
    server: Any = kvwire.server() if transport == "kvwire" else grpc.aio.server()
    if node is not None:
        cluster_pb2_grpc.add_ClusterServicer_to_server(node, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
