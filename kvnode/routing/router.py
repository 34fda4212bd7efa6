"""Chooses who serves a request: this node's replica, or another node.

A strong write goes to the shard's leader; a strong read to any replica that asks the leader for an index; everything else to
a replica that has what the caller's session, or staleness bound, demands. Never weakens what was asked: a replica that
cannot serve it waits, then forwards, then says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from kvapi.v1 import kv_pb2, replication_pb2
from kvnode import limits
from kvnode.errors import (
    DeadlineExpired,
    InvalidRequest,
    KvnodeError,
    NoLeader,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    Unavailable,
)
from kvnode.observe.part import Part
from kvnode.observe.stages import ADMISSION, FORWARD, LEADER_WAIT, REPLY
from kvnode.protocol.two_phase_commit.locks import Interval, Locks
from kvnode.routing import session
from kvnode.routing.context import RequestContext
from kvnode.routing.local import LocalShards
from kvnode.routing.range_router import RangeRouter
from kvnode.routing.shard_map import ShardMap
from kvnode.runtime.transport import PeerUnreachable, Transport
from kvnode.shard.client_sessions import WriteResult
from kvnode.shard.replica import Replica
from kvnode.shard.superseded import operation_id, parse_operation_id
from kvnode.types import NodeName, Origin, Seconds, Shard

STRONG, EVENTUAL = kv_pb2.CONSISTENCY_STRONG, kv_pb2.CONSISTENCY_EVENTUAL
SESSION, BOUNDED = kv_pb2.CONSISTENCY_SESSION, kv_pb2.CONSISTENCY_BOUNDED
LEADER_WAIT_MAX: Seconds = 3.0
"""How long a request waits for a shard that has no leader; an election takes about one second."""
OPERATION_WAIT_MAX: Seconds = 0.5
"""How long a node asks another one what became of an eventual write, before it says what it knows itself."""
SESSION_WAIT_SHARE = 0.5
"""Share of the remaining time that a replica waits for what a session has seen, before it forwards."""


class Router:
    """The operations of `KV`, on validated requests."""

    def __init__(
        self, me: NodeName, shard_map: ShardMap, local: LocalShards, transport: Transport, healthy: Callable[[NodeName], bool]
    ) -> None:
        self.me, self.map, self.local = me, shard_map, local
        self._transport, self._healthy = transport, healthy
        self._loop = local.driver.loop
        self._forwards = self._leader_waits = 0
        self.ranges = RangeRouter(self)
        self.range = self.ranges.range

    @property
    def forwards_in_flight(self) -> int:
        """Requests that are with another node now."""
        return self._forwards

    @property
    def leader_waits(self) -> int:
        """Requests that wait to hear who leads a shard."""
        return self._leader_waits

    # ---- choosing ---------------------------------------------------------------------------------------------------

    def leader_of(self, shard: Shard) -> NodeName:
        """The shard's leader as this node knows it; empty where it does not."""
        replica = self.local.replicas.get(shard)
        return replica.raft.leader if replica else ""

    def nearest(self, shard: Shard) -> NodeName:
        """A healthy replica on another node, the preferred leader first."""
        others = [name for name in self.map.replicas[shard] if name != self.me]
        healthy = [name for name in others if self._healthy(name)]
        if not others:
            raise Unavailable(f"shard {shard} has no other replica", shard=shard)
        return (healthy or others)[0]

    async def leader(self, shard: Shard, context: RequestContext, for_write: bool) -> NodeName:
        """The shard's leader, or a replica that may know it; waits for an election within bounds.

        A write waits for the end of a handing-over too; a read need not, the old leader serves it until it is deposed.
        """
        replica = self.local.replicas.get(shard)
        if replica is None:
            return self.nearest(shard)
        until = min(context.deadline, self._loop.time() + LEADER_WAIT_MAX)
        while not replica.raft.leader or (for_write and replica.is_leader and replica.raft.transfer is not None):
            if not self.local.serving:
                message = f"{self.me} stops, and does not know who leads shard {shard} now; use another node"
                raise Unavailable(message, shard=shard)
            if self._loop.time() >= until:
                raise NoLeader(
                    f"shard {shard} has no leader: fewer than a majority of {', '.join(self.map.replicas[shard])} "
                    f"can be reached from {self.me}, or an election is under way; try again",
                    shard=shard,
                )
            if self._leader_waits >= limits.FORWARDS_IN_FLIGHT_MAX:
                raise Overloaded(f"{self.me}: {limits.FORWARDS_IN_FLIGHT_MAX} requests wait for leaders already", node=self.me)
            self._leader_waits += 1
            context.timeline.enter(LEADER_WAIT)
            try:
                await replica_leader_change(replica, self._loop, until)
            finally:
                self._leader_waits -= 1
                context.timeline.enter(ADMISSION)
        return replica.raft.leader

    async def forward(self, to: NodeName, request: Any, context: RequestContext, is_write: bool) -> Any:
        """The answer of another node; at most `HOPS_MAX` times for one request."""
        if not context.may_forward:
            raise NotLeader(
                f"{self.me} cannot serve the request, and it was forwarded {context.hops} times already",
                leader=self.map.address(to),
            )
        remaining = context.deadline - self._loop.time()
        if remaining <= 0:
            raise DeadlineExpired("the deadline passed before the request was forwarded; nothing was stored")
        if self._forwards >= limits.FORWARDS_IN_FLIGHT_MAX:
            raise Overloaded(f"{self.me} forwards {limits.FORWARDS_IN_FLIGHT_MAX} requests already", node=self.me)
        self._forwards += 1
        try:
            with Part(context.timeline, FORWARD, REPLY, {"kvnode.node": to}):
                return await self._transport.forward(to, request, remaining, context.hops + 1)
        except PeerUnreachable as error:
            if is_write and not error.refused:
                raise OutcomeUnknown(
                    f"{to} got the write from {self.me} and was lost: it may take effect or not: "
                    "read the key before you write again",
                    node=to,
                ) from error
            raise NoLeader(
                f"{to}, where {self.me} forwarded the request, cannot be reached: {error}; try again", node=to
            ) from error
        finally:
            self._forwards -= 1

    # ---- writes -----------------------------------------------------------------------------------------------------

    async def put(self, request: kv_pb2.PutRequest, context: RequestContext) -> kv_pb2.PutResponse:
        """Writes a key."""
        shard = self.map.shard_of(request.key)
        if request.consistency == EVENTUAL:
            replica = self.local.replicas.get(shard)
            if replica is None:
                forwarded: kv_pb2.PutResponse = await self.forward(self.nearest(shard), request, context, is_write=True)
                return forwarded
            write, acks = await self.local.accept(replica, request.key, request.value, request.acks, request.session, context)
            served = self._served_eventual(replica, request.session, write)
            return kv_pb2.PutResponse(operation_id=operation_id(shard, replica.me, write.sequence), acks=acks, served=served)
        leader = await self.leader(shard, context, for_write=True)
        if leader != self.me:
            response: kv_pb2.PutResponse = await self.forward(leader, request, context, is_write=True)
            return response
        put = replication_pb2.PutCommand(key=request.key, value=request.value)
        if request.HasField("if_revision"):
            put.if_revision = request.if_revision
        replica = self.local.replicas[shard]
        result = await self._write(replica, request, replication_pb2.Command(put=put), context)
        return kv_pb2.PutResponse(
            revision=result.revision, served=self.local.served(replica, STRONG, request.session, revision=result.revision)
        )

    async def delete(self, request: kv_pb2.DeleteRequest, context: RequestContext) -> kv_pb2.DeleteResponse:
        """Deletes a key."""
        shard = self.map.shard_of(request.key)
        if request.consistency == EVENTUAL:
            replica = self.local.replicas.get(shard)
            if replica is None:
                forwarded: kv_pb2.DeleteResponse = await self.forward(self.nearest(shard), request, context, is_write=True)
                return forwarded
            write, acks = await self.local.accept(replica, request.key, None, request.acks, request.session, context)
            served = self._served_eventual(replica, request.session, write)
            return kv_pb2.DeleteResponse(operation_id=operation_id(shard, replica.me, write.sequence), acks=acks, served=served)
        leader = await self.leader(shard, context, for_write=True)
        if leader != self.me:
            response: kv_pb2.DeleteResponse = await self.forward(leader, request, context, is_write=True)
            return response
        delete = replication_pb2.DeleteCommand(key=request.key)
        if request.HasField("if_revision"):
            delete.if_revision = request.if_revision
        replica = self.local.replicas[shard]
        result = await self._write(replica, request, replication_pb2.Command(delete=delete), context)
        served = self.local.served(replica, STRONG, request.session, revision=result.revision)
        return kv_pb2.DeleteResponse(found=result.existed, revision=result.revision, served=served)

    async def _write(
        self, replica: Replica, request: Any, command: replication_pb2.Command, context: RequestContext
    ) -> WriteResult:
        if request.HasField("request"):
            command.request.CopyFrom(request.request)
        result = await self.local.execute(replica, command, Locks(writes=(request.key,)), context)
        if not isinstance(result, WriteResult):
            raise InvalidRequest("request", "this id belongs to another request, which was a transaction")
        return result

    def _served_eventual(self, replica: Replica, token: bytes, write: replication_pb2.EventualWrite) -> kv_pb2.Served:
        return self.local.served(replica, EVENTUAL, token, writes={replica.me: write.sequence}, hlc=write.hlc)

    # ---- reads ------------------------------------------------------------------------------------------------------

    async def get(self, request: kv_pb2.GetRequest, context: RequestContext) -> kv_pb2.GetResponse:
        """Reads a key."""
        shard = self.map.shard_of(request.key)
        level = request.consistency
        replica = self.local.replicas.get(shard)
        forward_to = await self.prepare_read(shard, replica, request, request.key, context)
        if forward_to or replica is None:
            response: kv_pb2.GetResponse = await self.forward(forward_to, request, context, is_write=False)
            return response
        seen = self.local.seen(replica, request.key, tentative=level in (EVENTUAL, SESSION))
        # (A tentative deletion is something that the session has seen, too.)
        writes = {seen.tentative.origin: seen.tentative.sequence} if seen and seen.tentative else None
        served = self.local.served(replica, level, request.session, writes=writes, hlc=seen.version.hlc if seen else 0)
        if seen is None or seen.version.value is None:
            return kv_pb2.GetResponse(found=False, served=served)
        version = seen.version
        return kv_pb2.GetResponse(
            found=True,
            value=seen.version.value,
            revision=version.revision,
            create_revision=version.create_revision,
            version=version.version,
            hlc=version.hlc,
            tentative=seen.tentative is not None,
            served=served,
        )

    async def prepare_read(
        self,
        shard: Shard,
        replica: Replica | None,
        request: kv_pb2.GetRequest | kv_pb2.RangeRequest,
        what: bytes | Interval,
        context: RequestContext,
    ) -> NodeName:
        """Waits until this node's replica may serve the read; or names the node to forward it to."""
        level, token, max_staleness_ms = request.consistency, request.session, request.max_staleness_ms
        if replica is None:
            return self.nearest(shard)
        if level == STRONG:
            leader = await self.leader(shard, context, for_write=False)
            index = await self.local.read_barrier(replica, leader, context)
            await self.local.locks.until_readable(replica, what, index, context)
            return ""
        now = self._loop.time()
        if level == SESSION:
            seen = session.position(session.decode(token), shard) if token else None
            # The leader has nobody to forward to: what it does not hold it waits for.
            share = SESSION_WAIT_SHARE if context.may_forward and not replica.is_leader else 1.0
            if await self.local.wait_session(replica, seen, now + (context.deadline - now) * share, context.timeline):
                # (A transaction of the session may have been answered, and not yet be applied here.)
                await self.local.locks.until_readable(replica, what, seen.revision if seen else 0, context)
                return ""
        elif level == BOUNDED:
            staleness = replica.staleness(now)
            if staleness is not None and staleness * 1000 <= max_staleness_ms:
                await self.local.locks.until_readable(replica, what, replica.applied, context)
                return ""
        else:
            return ""
        if not context.may_forward and not replica.is_leader:
            raise Unavailable(
                f"shard {shard}: {self.me} is behind what was asked for, and so was the node that forwarded to it", shard=shard
            )
        leader = await self.leader(shard, context, for_write=False)
        if leader != self.me:
            return leader
        if level == SESSION:
            # An eventual write that only another replica holds: no read index brings it here.
            raise Unavailable(
                f"shard {shard}: {self.me} does not have everything that the session has seen yet; try again", shard=shard
            )
        # A leader that is behind the bound has not heard a majority for so long: it must ask.
        index = await self.local.read_barrier(replica, leader, context)
        await self.local.locks.until_readable(replica, what, index, context)
        return ""

    # ---- what became of an eventual write ---------------------------------------------------------------------------

    async def operation(self, request: kv_pb2.OperationRequest, context: RequestContext) -> kv_pb2.OperationResponse:
        """What became of an eventual write, as this node, or another replica, knows it."""
        try:
            shard, origin, sequence = parse_operation_id(request.operation_id)
        except ValueError as error:
            raise InvalidRequest(
                "operation_id", f"{request.operation_id[:200]!r} is none: it looks like SHARD.NODE.INCARNATION.SEQUENCE"
            ) from error
        if not 0 <= shard < self.map.shards:
            raise InvalidRequest("operation_id", f"there is no shard {shard}, the cluster has {self.map.shards}")
        replica = self.local.replicas.get(shard)
        if replica is None:
            response: kv_pb2.OperationResponse = await self.forward(self.nearest(shard), request, context, is_write=False)
            return response
        known = self._operation(replica, origin, sequence)
        if known.state in (kv_pb2.OPERATION_STATE_APPLIED, kv_pb2.OPERATION_STATE_SUPERSEDED) or not context.may_forward:
            return known
        # Others may know more: the leader has applied the most, and who accepted the write knows whether it exists. So the
        # answers of different nodes do not go back in time, as long as these two can be asked.
        better = self.leader_of(shard)
        if better in ("", self.me):
            better = origin.node if known.state == kv_pb2.OPERATION_STATE_UNKNOWN else ""
        if better in ("", self.me) or not self.map.address(better) or not self._healthy(better):
            return known
        soon = RequestContext(min(context.deadline, self._loop.time() + OPERATION_WAIT_MAX), context.hops)
        try:
            asked: kv_pb2.OperationResponse = await self.forward(better, request, soon, is_write=False)
        except KvnodeError:
            return known
        return known if asked.state == kv_pb2.OPERATION_STATE_UNKNOWN else asked

    def _operation(self, replica: Replica, origin: Origin, sequence: int) -> kv_pb2.OperationResponse:
        machine = replica.machine
        response = kv_pb2.OperationResponse(served=self.local.served(replica, EVENTUAL, b""))
        superseded = machine.superseded.get((origin, sequence))
        if superseded is not None:
            response.state = kv_pb2.OPERATION_STATE_SUPERSEDED
            response.revision, response.key = superseded.revision, superseded.key
            response.reason, response.superseded_by = superseded.outcome
        elif machine.waiting and machine.waiting.has(origin, sequence):
            response.state = kv_pb2.OPERATION_STATE_PENDING
        elif machine.sequenced.get(origin, 0) >= sequence:
            response.revision, response.key = machine.placed.get((origin, sequence), (0, b""))
            kept = response.revision > 0
            response.state = kv_pb2.OPERATION_STATE_APPLIED if kept else kv_pb2.OPERATION_STATE_SETTLED
        elif replica.holder.held(origin) >= sequence:
            response.state = kv_pb2.OPERATION_STATE_PENDING
        else:
            response.state = kv_pb2.OPERATION_STATE_UNKNOWN
        return response


async def replica_leader_change(replica: Replica, loop: asyncio.AbstractEventLoop, until: Seconds) -> None:
    """Waits until the replica knows another leader than now, or until the time has come."""
    future: asyncio.Future[None] = loop.create_future()
    replica.waits.for_leader(future)
    timer = loop.call_at(until, _wake, future)
    try:
        await future
    finally:
        timer.cancel()
        replica.waits.forget(future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
