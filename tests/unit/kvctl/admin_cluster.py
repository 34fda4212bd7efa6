"""The SDK's fake cluster, with the operators' calls on top: what `kvctl` needs and the SDK does not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from kvapi.v1 import cluster_pb2, kv_pb2, message_pb2, observability_pb2
from kvapi.v1 import two_phase_commit_pb2 as pb
from tests.unit.kvclient.fake_cluster import FakeCluster, FakeNode, Refusal


class AdminNode(FakeNode):
    """A fake node that also tells its status, the members, superseded writes, events and transactions."""

    def __init__(self, cluster: FakeCluster, name: str) -> None:
        super().__init__(cluster, name)
        self.transaction_infos: list[cluster_pb2.TransactionInfo] = []
        self.refuses_to_resolve = False
        self.availability = cluster_pb2.AvailabilityResponse(node=name)
        self.refuses_availability = False
        self.silent_about: list[str] = []
        """RPCs that fail; each is used up."""
        self.trace_lines: list[str] = []
        self.latency = observability_pb2.LatencyResponse(node=name, incarnation=1)
        self.metrics = "# EOF\n"

    async def Status(self, request: cluster_pb2.StatusRequest, context: Any) -> Any:
        """This node and its part in each shard."""
        return await self._serve("Status", context, self.status)

    async def Members(self, request: cluster_pb2.MembersRequest, context: Any) -> Any:
        """All members."""
        members = self.cluster.topology().members
        return await self._serve("Members", context, lambda: cluster_pb2.MembersResponse(members=members, epoch=1))

    async def Superseded(self, request: cluster_pb2.SupersededRequest, context: Any) -> Any:
        """Superseded writes of one shard, or all."""
        return await self._serve("Superseded", context, lambda: self.superseded(request))

    async def Events(self, request: cluster_pb2.EventsRequest, context: Any) -> Any:
        """One event, as if this node had seen n3 fail."""
        event = cluster_pb2.NodeEvent(node="n3", to=message_pb2.NODE_STATE_FAILED, at_ms=1_700_000_000_000, why="silent")
        return await self._serve("Events", context, lambda: cluster_pb2.EventsResponse(events=[event]))

    async def Availability(self, request: cluster_pb2.AvailabilityRequest, context: Any) -> Any:
        """The record that the test put there."""

        def answer() -> cluster_pb2.AvailabilityResponse:
            if self.refuses_availability:
                raise Refusal(grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED")
            return self.availability

        return await self._serve("Availability", context, answer)

    async def Stats(self, request: observability_pb2.StatsRequest, context: Any) -> Any:
        """The metrics that the test put there."""
        answer = observability_pb2.StatsResponse(node=self.name, metrics=self.metrics)
        return await self._serve("Stats", context, lambda: answer)

    async def TransferLeadership(self, request: cluster_pb2.TransferLeadershipRequest, context: Any) -> Any:
        """A new leader, at once."""

        def transfer() -> cluster_pb2.TransferLeadershipResponse:
            if self.cluster.leaders[request.shard] == request.to:
                term = self.cluster.shards[request.shard].term
                return cluster_pb2.TransferLeadershipResponse(leader=request.to, term=term)
            self.cluster.elect(request.shard, request.to)
            return cluster_pb2.TransferLeadershipResponse(leader=request.to, term=self.cluster.shards[request.shard].term)

        return await self._serve("TransferLeadership", context, transfer)

    async def Transactions(self, request: cluster_pb2.TransactionsRequest, context: Any) -> Any:
        """What this node's replicas know, as the test put it there."""
        return await self._serve("Transactions", context, lambda: self.known_transactions(request))

    async def ResolveTransaction(self, request: cluster_pb2.ResolveTransactionRequest, context: Any) -> Any:
        """The anchor's word: what it decided, else that it decides ABORT."""

        def resolve() -> cluster_pb2.ResolveTransactionResponse:
            if self.refuses_to_resolve:
                raise Refusal(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
            known = [info for node in self.cluster.nodes.values() for info in getattr(node, "transaction_infos", ())]
            states = {info.state for info in known if info.transaction_id == request.transaction_id}
            decided = states & {pb.TRANSACTION_STATE_COMMITTING, pb.TRANSACTION_STATE_COMMITTED}
            state = pb.TRANSACTION_STATE_COMMITTED if decided else pb.TRANSACTION_STATE_ABORTED
            return cluster_pb2.ResolveTransactionResponse(state=state)

        return await self._serve("ResolveTransaction", context, resolve)

    async def Traces(self, request: observability_pb2.TracesRequest, context: Any) -> Any:
        """The lines that the test put there."""
        answer = observability_pb2.TracesResponse(node=self.name, lines=self.trace_lines)
        return await self._serve("Traces", context, lambda: self.told("Traces", answer))

    async def Latency(self, request: observability_pb2.LatencyRequest, context: Any) -> Any:
        """What the test put there."""
        return await self._serve("Latency", context, lambda: self.told("Latency", self.latency))

    def told(self, kind: str, answer: Any) -> Any:
        """The answer, unless this node is silent about it."""
        if kind in self.silent_about:
            self.silent_about.remove(kind)
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
        return answer

    def known_transactions(self, request: cluster_pb2.TransactionsRequest) -> cluster_pb2.TransactionsResponse:
        """Without the network."""
        ended = (pb.TRANSACTION_STATE_COMMITTED, pb.TRANSACTION_STATE_ABORTED)
        return cluster_pb2.TransactionsResponse(
            transactions=[
                info
                for info in self.transaction_infos
                if request.transaction_id in ("", info.transaction_id)
                and (not request.HasField("shard") or request.shard == info.shard)
                and (request.ended or info.state not in ended)
            ]
        )

    def status(self) -> cluster_pb2.StatusResponse:
        """Without the network."""
        node = cluster_pb2.Member(name=self.name, address=self.address, state=message_pb2.NODE_STATE_ACTIVE)
        answer = cluster_pb2.StatusResponse(
            node=node, version="1.2.3", uptime_ms=61_000, memory_bytes=50 << 20, transport="grpcio"
        )
        for shard in self.cluster.shards:
            leader = self.cluster.leaders[shard.number] or ""
            answer.shards.add(
                shard=shard.number,
                role=kv_pb2.ROLE_LEADER if leader == self.name else kv_pb2.ROLE_FOLLOWER,
                leader=leader,
                applied_index=self.applied(shard.number),
                commit_index=shard.last,
                state_hash=0xABC,
            )
        return answer

    def superseded(self, request: cluster_pb2.SupersededRequest) -> cluster_pb2.SupersededResponse:
        """Without the network."""
        answer = cluster_pb2.SupersededResponse()
        for write in self.cluster.eventual.values():
            if write.state == kv_pb2.OPERATION_STATE_SUPERSEDED and write.shard == request.shard:
                answer.total += 1
                answer.writes.add(
                    operation_id=write.operation_id,
                    key=write.key,
                    revision=write.revision,
                    reason=kv_pb2.SUPERSEDED_REASON_STRONG_WRITE,
                    superseded_by=write.superseded_by,
                    shard=write.shard,
                    hlc=1_700_000_000_000 << 16,
                )
        return answer


class AdminCluster(FakeCluster):
    """A fake cluster of admin nodes."""

    def __init__(self, nodes: int = 3, shards: int = 4) -> None:
        super().__init__(nodes, shards)
        self.nodes = {name: AdminNode(self, name) for name in self.nodes}

    @property
    def endpoints(self) -> str:
        """For --endpoints."""
        return self.uri.removeprefix("kv://")

    def refuse_next(self, refusal: Refusal) -> None:
        """The next operation on a key fails so, at whatever node."""
        for node in self.nodes.values():
            node.refusals.append((lambda kind, key: True, refusal))


@contextmanager
def serving(cluster: FakeCluster) -> Iterator[Any]:
    """A cluster on a loop in another thread; yields a function that runs a coroutine there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def do(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(10)

    try:
        do(cluster.__aenter__())
        yield do
        do(cluster.__aexit__())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
