"""Chooses how a transaction is served: inside one shard by one log entry, over several by two-phase commit, read-only without
either; here, or on the node that leads the anchor."""

from __future__ import annotations

from kvapi.v1 import kv_pb2, replication_pb2
from kvnode.errors import InvalidRequest
from kvnode.protocol.two_phase_commit.locks import Locks
from kvnode.routing import session
from kvnode.routing.context import RequestContext
from kvnode.routing.coordinators import Coordinators
from kvnode.routing.parts import Parts, split
from kvnode.routing.router import STRONG, Router
from kvnode.shard.evaluate import Reading, locks_of
from kvnode.shard.replica import Replica
from kvnode.types import Index

READS_MAX = 4
"""How often a read-only transaction of one shard looks again because of transactions that write, before it takes locks."""


class TransactionRouter:
    """`KV.Txn`, on checked requests."""

    def __init__(self, router: Router, coordinators: Coordinators) -> None:
        self._router, self._coordinators = router, coordinators
        self._local = router.local

    async def txn(self, request: kv_pb2.TxnRequest, context: RequestContext) -> kv_pb2.TxnResponse:
        """The outcome, with what was served; the last one's session token covers all, and what the request's covered."""
        parts = split(request, self._router.map)
        response = await self._serve(request, parts, context)
        if response.served and not context.hops:
            response.served[-1].session = session.joined([request.session, *(served.session for served in response.served)])
        return response

    async def _serve(self, request: kv_pb2.TxnRequest, parts: Parts, context: RequestContext) -> kv_pb2.TxnResponse:
        found = await self._read_only(request, parts, context) if parts.reads_only else None
        if found is not None:
            return found
        leader = await self._router.leader(parts.anchor, context, for_write=True)
        if leader != self._router.me:
            forwarded: kv_pb2.TxnResponse = await self._router.forward(leader, request, context, is_write=not parts.reads_only)
            return forwarded
        if len(parts.parts) == 1 and not parts.reads_only:
            return await self._transact(request, parts, context)
        return await self._coordinators.run(request, parts, context)

    async def _read_only(self, request: kv_pb2.TxnRequest, parts: Parts, context: RequestContext) -> kv_pb2.TxnResponse | None:
        """Without locks; None: with them."""
        if len(parts.parts) == 1:
            return await self._read(request, parts, context)
        # (The node that forwarded it here has tried already.)
        return None if context.hops else await self._coordinators.read(request, parts, context)

    async def _transact(self, request: kv_pb2.TxnRequest, parts: Parts, context: RequestContext) -> kv_pb2.TxnResponse:
        """Inside one shard: one log entry."""
        part, replica = parts.parts[parts.anchor], self._local.replicas[parts.anchor]
        command = replication_pb2.Command(transact=replication_pb2.TransactCommand(part=part))
        if request.HasField("request"):
            command.request.CopyFrom(request.request)
        result = await self._local.execute(replica, command, locks_of(part), context)
        if not isinstance(result, bytes):
            raise InvalidRequest("request", "this id belongs to another request, which was no transaction")
        response = kv_pb2.TxnResponse.FromString(result)
        response.served.append(self._local.served(replica, STRONG, b""))
        return response

    async def _read(self, request: kv_pb2.TxnRequest, parts: Parts, context: RequestContext) -> kv_pb2.TxnResponse | None:
        """Inside one shard, read-only: one ReadIndex read. None: transactions that write are always in the way, take locks."""
        shard, part = parts.anchor, parts.parts[parts.anchor]
        replica = self._local.replicas.get(shard)
        if replica is None:
            forwarded: kv_pb2.TxnResponse = await self._router.forward(
                self._router.nearest(shard), request, context, is_write=False
            )
            return forwarded
        leader = await self._router.leader(shard, context, for_write=False)
        index = await self._local.read_barrier(replica, leader, context)
        wanted = locks_of(part)
        for _ in range(READS_MAX):
            await self._until_readable(replica, wanted, index, context)
            reading = Reading(replica.machine)
            succeeded = reading.matches(part.compare)
            results = reading.results(part.then if succeeded else part.otherwise, 0)
            vote = self._local.locks.lowest_vote(replica, wanted)
            if vote is None or reading.newest < vote:
                # Everything that was seen is older than every vote under way: this is the state just before the first of them.
                response = kv_pb2.TxnResponse(succeeded=succeeded, results=results)
                response.served.append(self._local.served(replica, STRONG, b""))
                return response
            index = vote
        return None

    async def _until_readable(self, replica: Replica, wanted: Locks, index: Index, context: RequestContext) -> None:
        for key in wanted.reads:
            await self._local.locks.until_readable(replica, key, index, context)
        for interval in wanted.ranges:
            await self._local.locks.until_readable(replica, interval, index, context)
