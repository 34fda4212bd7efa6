"""The gRPC server: which transport serves is chosen here and nowhere else; the services are the same under each.

(Which one carries this node's calls to its peers is chosen in `kvclient.transport`, as for the SDK.)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

import kvwire
from kvapi.v1 import (
    cluster_pb2,
    cluster_pb2_grpc,
    election_pb2,
    election_pb2_grpc,
    failure_detection_pb2,
    failure_detection_pb2_grpc,
    fault_pb2,
    fault_pb2_grpc,
    gossip_pb2,
    gossip_pb2_grpc,
    kv_pb2,
    kv_pb2_grpc,
    replication_pb2,
    replication_pb2_grpc,
    two_phase_commit_pb2,
    two_phase_commit_pb2_grpc,
)
from kvnode import limits
from kvnode.api.cluster_service import ClusterService
from kvnode.api.decoding import DecodingServer
from kvnode.api.kv_service import KvService
from kvnode.api.peer_service import PeerService
from kvnode.api.standard import Health, Reflection
from kvnode.refusals import cannot_listen
from kvnode.types import Seconds

KV_SERVICE = "kvapi.v1.KV"
LEADER_SERVICE = "kvapi.v1.KV.leader"
"""Health name that is SERVING only while this node leads at least one shard."""
CLOSE_MAX: Seconds = 0.5
"""How long, after the time of grace, handlers may take to end and callers to read what was written."""

SERVER_OPTIONS: Sequence[tuple[str, Any]] = (
    # Peers' messages are larger than clients': a client's size is bounded field by field in `convert`.
    ("grpc.max_receive_message_length", limits.PEER_MESSAGE_SIZE_BYTES_MAX),
    ("grpc.max_send_message_length", limits.PEER_MESSAGE_SIZE_BYTES_MAX),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A client that vanished without a word keeps its connection, and its watches, for a minute and a half at most.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.max_metadata_size", 16 * 1024),
)


def add_services(server: Any, kv: KvService, cluster: ClusterService, peer: PeerService) -> None:
    """Registers a node's own services on a server with grpc.aio's interface, each handler with a deserializer that never
    raises."""
    server = DecodingServer(server)
    kv_pb2_grpc.add_KVServicer_to_server(kv, server)
    cluster_pb2_grpc.add_ClusterServicer_to_server(cluster, server)
    failure_detection_pb2_grpc.add_FailureDetectionServicer_to_server(peer, server)
    gossip_pb2_grpc.add_GossipServicer_to_server(peer, server)
    election_pb2_grpc.add_ElectionServicer_to_server(peer, server)
    replication_pb2_grpc.add_ReplicationServicer_to_server(peer, server)
    two_phase_commit_pb2_grpc.add_TwoPhaseCommitServicer_to_server(peer, server)


class Server:
    """Serves clients and peers on one address."""

    def __init__(
        self,
        transport: str,
        listen: str,
        kv: KvService,
        cluster: ClusterService,
        peer: PeerService,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        faults: fault_pb2_grpc.FaultServicer | None = None,
    ) -> None:
        make = {"kvwire": kvwire.server, "grpcio": grpc.aio.server}[transport]
        self._server: grpc.aio.Server = make(options=SERVER_OPTIONS, interceptors=tuple(interceptors))
        self._peer, self._listen = peer, listen
        self.wire: kvwire.Server | None = self._server if isinstance(self._server, kvwire.Server) else None
        """The server that counts what it does; None with grpcio, which does not."""
        self.health = Health()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        add_services(self._server, kv, cluster, peer)
        if faults is not None:
            server: Any = DecodingServer(self._server)
            fault_pb2_grpc.add_FaultServicer_to_server(faults, server)
        peers = (failure_detection_pb2, gossip_pb2, election_pb2, replication_pb2, two_phase_commit_pb2)
        files = (kv_pb2, cluster_pb2, *peers, *((fault_pb2,) if faults is not None else ()))
        names = [service.full_name for file in files for service in file.DESCRIPTOR.services_by_name.values()]
        self._reflection = Reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME])
        self._reflection.add_to(self._server)

    async def start(self) -> int:
        """Listens; answers the port. Raises OSError when the address cannot be had."""
        try:
            port = self._server.add_insecure_port(self._listen)
        except RuntimeError as error:
            raise cannot_listen(self._listen, "node.listen", error) from error
        await self._server.start()
        return int(port)

    def set_health(self, states: Mapping[str, bool]) -> None:
        """Sets the health of services by name; "" is the server as a whole."""
        self.health.set(states)

    async def stop(self, grace: Seconds) -> None:
        """Takes no new calls, ends the streams that would last, waits for calls in flight; within `grace` + `CLOSE_MAX`."""
        self.health.end()
        self._reflection.end()
        self._peer.end_streams()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace + CLOSE_MAX):
                await self._server.stop(grace)
