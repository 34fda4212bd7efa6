"""`kvapi.v1.Cluster`: what this node knows of the cluster, for operators and SDKs."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from kvapi.v1 import cluster_pb2, cluster_pb2_grpc, observability_pb2
from kvnode import __version__
from kvnode.api.observation import Observation
from kvnode.api.status import abort
from kvnode.api.transactions import TransactionAdmin
from kvnode.errors import InvalidRequest, KvnodeError, NoLeader, NotLeader
from kvnode.observe.calls import headers_of
from kvnode.protocol.raft import leader
from kvnode.routing.local import ROLES
from kvnode.routing.router import replica_leader_change
from kvnode.routing.shard_map import KEY_HASH
from kvnode.shard.replica import Replica
from kvnode.shard.superseded import operation_id
from kvnode.types import NodeName, Seconds

if TYPE_CHECKING:
    from kvnode.node import Node

TRANSFER_WAIT_MAX: Seconds = 5.0
Request = TypeVar("Request")
Response = TypeVar("Response")


class ClusterService(cluster_pb2_grpc.ClusterServicer):
    """Answers from what the node's parts say about themselves."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._transactions = TransactionAdmin(node)
        self._observation = Observation(node)

    async def Locate(self, request: cluster_pb2.LocateRequest, context: Any) -> cluster_pb2.LocateResponse:
        """Where a key lives."""
        return await self._serve(self.locate, request, context)

    async def Topology(self, request: cluster_pb2.TopologyRequest, context: Any) -> cluster_pb2.TopologyResponse:
        """The shard map."""
        return await self._serve(self.topology, request, context)

    async def Members(self, request: cluster_pb2.MembersRequest, context: Any) -> cluster_pb2.MembersResponse:
        """The members."""
        return await self._serve(self.members, request, context)

    async def Status(self, request: cluster_pb2.StatusRequest, context: Any) -> cluster_pb2.StatusResponse:
        """This node."""
        return await self._serve(self.status, request, context)

    async def TransferLeadership(
        self, request: cluster_pb2.TransferLeadershipRequest, context: Any
    ) -> cluster_pb2.TransferLeadershipResponse:
        """Hands a shard over."""
        return await self._serve(self.transfer_leadership, request, context)

    async def Superseded(self, request: cluster_pb2.SupersededRequest, context: Any) -> cluster_pb2.SupersededResponse:
        """Eventual writes without effect."""
        return await self._serve(self.superseded, request, context)

    async def Events(self, request: cluster_pb2.EventsRequest, context: Any) -> cluster_pb2.EventsResponse:
        """The failure detector's record."""
        return await self._serve(self.events, request, context)

    async def Transactions(self, request: cluster_pb2.TransactionsRequest, context: Any) -> cluster_pb2.TransactionsResponse:
        """Transactions that this node's replicas know."""
        return await self._serve(self._transactions.list, request, context)

    async def ResolveTransaction(
        self, request: cluster_pb2.ResolveTransactionRequest, context: Any
    ) -> cluster_pb2.ResolveTransactionResponse:
        """Ends a transaction as its anchor says."""
        return await self._serve(self._transactions.resolve, request, context)

    async def Stats(self, request: observability_pb2.StatsRequest, context: Any) -> observability_pb2.StatsResponse:
        """This node's metrics."""
        return await self._serve(self._observation.stats, request, context)

    async def Latency(self, request: observability_pb2.LatencyRequest, context: Any) -> observability_pb2.LatencyResponse:
        """How long requests took here."""
        return await self._serve(self._observation.latency, request, context)

    async def Availability(self, request: cluster_pb2.AvailabilityRequest, context: Any) -> cluster_pb2.AvailabilityResponse:
        """What availability is computed from."""
        return await self._serve(self._observation.availability, request, context)

    async def Traces(self, request: observability_pb2.TracesRequest, context: Any) -> observability_pb2.TracesResponse:
        """Traces that were kept lately."""
        return await self._serve(self._observation.traces, request, context)

    async def _serve(
        self, operation: Callable[[Request], Awaitable[Response]], request: Request, context: grpc.aio.ServicerContext[Any, Any]
    ) -> Response:
        calls, headers = self._node.calls, headers_of(context.invocation_metadata())  # type: ignore[arg-type]
        timeline = calls.arrive("cluster." + type(request).__name__.removesuffix("Request"), 0, headers, context)
        try:
            response = await operation(request)
        except KvnodeError as error:
            await abort(context, error, calls.leave(timeline, error, headers))
            raise
        except BaseException as error:
            calls.leave(timeline, error, headers)
            raise
        if trailing := calls.leave(timeline, None, headers):
            context.set_trailing_metadata(trailing)
        return response

    # ---- the operations ---------------------------------------------------------------------------------------------

    async def locate(self, request: cluster_pb2.LocateRequest) -> cluster_pb2.LocateResponse:
        """Where a key lives. A node that does not hold the shard names the preferred leader."""
        key = request.key or request.key_text.encode()
        if not key:
            raise InvalidRequest("key", "empty; a key has 1 to 400 bytes")
        shard_map = self._node.shard_map
        shard = shard_map.shard_of(key)
        return cluster_pb2.LocateResponse(
            shard=shard,
            leader=shard_map.address(self._leader_of(shard)),
            replicas=[shard_map.address(name) for name in shard_map.replicas[shard]],
            epoch=shard_map.epoch,
        )

    def _leader_of(self, shard: int) -> NodeName:
        known = self._node.router.leader_of(shard)
        return known if known or shard in self._node.replicas else self._node.shard_map.replicas[shard][0]

    async def topology(self, request: cluster_pb2.TopologyRequest) -> cluster_pb2.TopologyResponse:
        """The shard map, with leaders as this node knows them."""
        shard_map = self._node.shard_map
        response = cluster_pb2.TopologyResponse(
            epoch=shard_map.epoch,
            cluster_id=self._node.config.cluster.id,
            members=self._members(),
            key_hash=KEY_HASH,
            hlc=self._node.stamp(),
        )
        for shard, replicas in enumerate(shard_map.replicas):
            replica = self._node.replicas.get(shard)
            response.shards.add(
                shard=shard, leader=self._leader_of(shard), term=replica.raft.term if replica else 0, replicas=replicas
            )
        return response

    async def members(self, request: cluster_pb2.MembersRequest) -> cluster_pb2.MembersResponse:
        """The members, as this node sees them."""
        return cluster_pb2.MembersResponse(members=self._members(), epoch=self._node.shard_map.epoch)

    def _members(self) -> list[cluster_pb2.Member]:
        node = self._node
        now = node.loop.time()
        members = {node.me.node: self._own_member()}
        for view in node.membership.detector.snapshot(now):
            if view.node != node.me.node:
                members[view.node] = cluster_pb2.Member(
                    name=view.node,
                    address=node.shard_map.address(view.node),
                    state=view.state,
                    incarnation=view.incarnation,
                    uid=node.envelopes.peer_uids.get(view.node, ""),
                    phi=round(view.phi, 3),
                    last_heard_ms=int((now - view.last_heard) * 1000) if view.last_heard is not None else 0,
                )
        return [members[name] for name in sorted(members)]

    def _own_member(self) -> cluster_pb2.Member:
        node = self._node
        return cluster_pb2.Member(
            name=node.me.node,
            address=node.shard_map.address(node.me.node),
            state=node.state,
            incarnation=node.me.incarnation,
            uid=node.identity.uid,
        )

    async def status(self, request: cluster_pb2.StatusRequest) -> cluster_pb2.StatusResponse:
        """This node."""
        node = self._node
        return cluster_pb2.StatusResponse(
            node=self._own_member(),
            version=__version__,
            uptime_ms=int((node.loop.time() - node.started_at) * 1000),
            shards=[self._shard_status(replica) for replica in node.replicas.values()],
            log_size_bytes=node.log.size_bytes,
            store_size_bytes=node.store.size_bytes,
            free_bytes=node.disk.free_bytes(),
            memory_bytes=_memory_bytes(),
            out_of_space=node.driver.out_of_space,
            transport=node.config.node.transport,
        )

    def _shard_status(self, replica: Replica) -> cluster_pb2.ShardStatus:
        raft, machine = replica.raft, replica.machine
        return cluster_pb2.ShardStatus(
            shard=replica.shard,
            role=ROLES[raft.role],
            term=raft.term,
            leader=raft.leader,
            last_index=raft.log.last_index,
            commit_index=raft.commit,
            applied_index=machine.applied,
            flushed_index=replica.flushed,
            first_index=raft.log.first_index,
            state_hash=machine.state_hash,
            pending_eventual=replica.holder.size,
            superseded=machine.superseded_total,
            keys=machine.keys,
            lag={peer: raft.log.last_index - progress.match for peer, progress in raft.progress.items()},
        )

    async def transfer_leadership(
        self, request: cluster_pb2.TransferLeadershipRequest
    ) -> cluster_pb2.TransferLeadershipResponse:
        """Hands a shard over and waits until the new leader is known."""
        node = self._node
        replica = node.replicas.get(request.shard)
        if request.shard >= node.shard_map.shards:
            raise InvalidRequest("shard", f"there is no shard {request.shard}, the cluster has {node.shard_map.shards}")
        if replica is None or not replica.is_leader:
            known = node.router.leader_of(request.shard)
            address = node.shard_map.address(known)
            raise NotLeader(
                f"shard {request.shard}: {node.me.node} does not lead it; ask "
                f"{known or 'another replica'} {address and f'at {address}'}",
                shard=request.shard,
                leader=address,
            )
        if request.to == node.me.node:
            return cluster_pb2.TransferLeadershipResponse(leader=node.me.node, term=replica.raft.term)
        healthy = [peer for peer in replica.raft.progress if node.membership.detector.healthy(peer)]
        to = request.to or leader.most_advanced_follower(replica.raft, healthy) or ""
        now = node.loop.time()
        if to not in replica.raft.progress or not leader.start_transfer(replica.raft, to, now):
            raise InvalidRequest(
                "to",
                f"shard {request.shard} cannot be handed to {to[:64] or 'anybody'} now; "
                f"its replicas are {', '.join(replica.raft.voters)}",
            )
        node.driver.wake(request.shard)
        until = now + TRANSFER_WAIT_MAX
        while node.loop.time() < until and not (replica.raft.leader and replica.raft.leader != node.me.node):
            await replica_leader_change(replica, node.loop, until)
            if replica.is_leader and replica.raft.transfer is None:
                raise NoLeader(
                    f"shard {request.shard}: {to} did not take over; {node.me.node} leads still", shard=request.shard
                )
        return cluster_pb2.TransferLeadershipResponse(leader=replica.raft.leader, term=replica.raft.term)

    async def superseded(self, request: cluster_pb2.SupersededRequest) -> cluster_pb2.SupersededResponse:
        """Eventual writes without effect, of the shards that this node holds."""
        node = self._node
        if request.HasField("shard") and request.shard >= node.shard_map.shards:
            raise InvalidRequest("shard", f"there is no shard {request.shard}, the cluster has {node.shard_map.shards}")
        wanted = [request.shard] if request.HasField("shard") else list(node.replicas)
        response = cluster_pb2.SupersededResponse()
        for replica in (node.replicas[shard] for shard in wanted if shard in node.replicas):
            response.total += replica.machine.superseded_total
            for record in reversed(replica.machine.superseded.values()):
                response.writes.add(
                    operation_id=operation_id(replica.shard, record.origin, record.sequence),
                    key=record.key,
                    revision=record.revision,
                    reason=record.outcome.reason,
                    superseded_by=record.outcome.by,
                    shard=replica.shard,
                    hlc=record.hlc,
                )
        latest = sorted(response.writes, key=lambda write: -write.hlc)[: request.limit or 100]
        return cluster_pb2.SupersededResponse(total=response.total, writes=latest)

    async def events(self, request: cluster_pb2.EventsRequest) -> cluster_pb2.EventsResponse:
        """The failure detector's record, the latest first."""
        members = self._node.shard_map.members
        if request.node and request.node not in members:
            raise InvalidRequest("node", f"{request.node[:64]!r} is no member; the members are {', '.join(members)}")
        events = [
            event for event in reversed(self._node.membership.history.events) if not request.node or event.node == request.node
        ]
        return cluster_pb2.EventsResponse(events=events[: request.limit or 100])


def _memory_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
