"""What a node does with a peer's request: checks the envelope, hands the message to whoever it is for, seals the answer.

Every protocol's request passes here, whatever transport brought it; so the simulator's nodes and real ones behave alike.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import structlog
from opentelemetry.context import attach

from kvapi.v1 import election_pb2, failure_detection_pb2, gossip_pb2, replication_pb2
from kvnode import limits
from kvnode.errors import InvalidRequest, NotLeader, Overloaded, StaleShardMap
from kvnode.invariant import InvariantViolated, invariant
from kvnode.observe.log_times import LogTimes
from kvnode.observe.tracing import context_of, span_context_of
from kvnode.runtime.driver import Driver
from kvnode.runtime.envelope import Envelopes
from kvnode.runtime.heartbeats import Heartbeats
from kvnode.runtime.membership import Membership
from kvnode.runtime.snapshots import Snapshots
from kvnode.runtime.tokens import Collector
from kvnode.shard.replica import Replica
from kvnode.types import NodeName, Seconds, Shard

logger = structlog.get_logger(__name__)

REFUSAL_LOGGED_EVERY: Seconds = 1.0
"""Of one peer: whoever sends nonsense sends it again and again."""

_UINT32_MAX = 2**32 - 1


class Endpoint:
    """The receiving side of all peer protocols."""

    def __init__(
        self,
        driver: Driver,
        replicas: Mapping[Shard, Replica],
        envelopes: Envelopes,
        heartbeats: Heartbeats,
        membership: Membership,
        snapshots: Snapshots,
        times: LogTimes,
        transactions: Mapping[type, Callable[[Any], Awaitable[Any]]],
        check: Callable[[Any], None],
    ) -> None:
        """`transactions`: who answers the requests of two-phase commit, by their type. `check` refuses what no correct
        peer sends."""
        self._driver, self._replicas, self._envelopes = driver, replicas, envelopes
        self._heartbeats, self._membership, self._snapshots = heartbeats, membership, snapshots
        self._times, self._check = times, check
        self._refusal_logged: dict[NodeName, Seconds] = {}
        self._handlers: dict[type, Callable[[Any], Awaitable[Any]]] = {
            failure_detection_pb2.HeartbeatRequest: self._heartbeat,
            failure_detection_pb2.ProbeRequest: membership.on_probe,
            gossip_pb2.ExchangeRequest: self._gossip,
            election_pb2.RequestVoteRequest: self._request_vote,
            election_pb2.TimeoutNowRequest: self._timeout_now,
            replication_pb2.AppendRequest: self._append,
            replication_pb2.ReadIndexRequest: self._read_index,
            replication_pb2.ReplicateEventualRequest: self._replicate_eventual,
            **transactions,
        }

    async def handle(self, request: Any) -> Any:
        """Answers one request. Raises `WrongCluster` for a stranger's, and what the request's protocol raises."""
        self._envelopes.check(request.message)
        self._check_content(request)
        cause = request.message.trace.traceparent
        if cause and (span := span_context_of(cause)) is not None:
            attach(context_of(span))  # It ends with the task.
        handler: Any = self._handlers.get(type(request))
        invariant(handler is not None, f"no handler for {type(request).__name__}")
        try:
            answer = await handler(request)
        except InvariantViolated as violated:
            self._driver.fatal(violated)
            raise
        return self._envelopes.seal(request.message.from_node, answer)

    def _check_content(self, request: Any) -> None:
        """Raises `InvalidRequest`, and tells the operator: one of the two nodes is not as it should be."""
        try:
            self._check(request)
        except InvalidRequest as error:
            sender, now = request.message.from_node, self._driver.loop.time()
            if now - self._refusal_logged.get(sender, -REFUSAL_LOGGED_EVERY) >= REFUSAL_LOGGED_EVERY:
                self._refusal_logged[sender] = now
                logger.error(
                    "refused what no correct peer sends", sender=sender, kind=type(request).__name__, error=error.message
                )
            raise

    async def install_snapshot(
        self, requests: AsyncIterator[replication_pb2.InstallSnapshotRequest]
    ) -> replication_pb2.InstallSnapshotResponse:
        """Takes a snapshot's parts until one is answered; a stream that ends early leaves everything as it was."""
        response = replication_pb2.InstallSnapshotResponse(success=False)
        sender = ""
        async for request in requests:
            self._envelopes.check(request.message)
            self._check_content(request)
            sender = request.message.from_node
            answer = await self._snapshots.on_part(request)
            if answer is not None:
                response = answer
                break
        sealed: replication_pb2.InstallSnapshotResponse = self._envelopes.seal(sender, response)
        return sealed

    def _replica(self, shard: Shard) -> Replica:
        replica = self._replicas.get(shard)
        if replica is None:
            raise StaleShardMap(f"{self._envelopes.me} holds no replica of shard {shard}", shard=shard)
        return replica

    async def _heartbeat(self, request: failure_detection_pb2.HeartbeatRequest) -> failure_detection_pb2.HeartbeatResponse:
        return self._heartbeats.on_heartbeat(request)

    async def _gossip(self, request: gossip_pb2.ExchangeRequest) -> gossip_pb2.ExchangeResponse:
        return self._membership.gossip.on_exchange(request, self._driver.loop.time())

    async def _request_vote(self, request: election_pb2.RequestVoteRequest) -> election_pb2.RequestVoteResponse:
        replica, future = self._replica(request.shard), self._driver.loop.create_future()
        replica.raft.on_request_vote(request, future, self._driver.loop.time())
        self._driver.wake(request.shard)
        response: election_pb2.RequestVoteResponse = await future
        return response

    async def _timeout_now(self, request: election_pb2.TimeoutNowRequest) -> election_pb2.TimeoutNowResponse:
        campaigns = self._replica(request.shard).raft.on_timeout_now(request, self._driver.loop.time())
        self._driver.wake(request.shard)
        return election_pb2.TimeoutNowResponse(refused=not campaigns)

    async def _append(self, request: replication_pb2.AppendRequest) -> replication_pb2.AppendResponse:
        now, sender, arrived = self._driver.loop.time(), request.message.from_node, self._times.clock()
        collector: Collector[replication_pb2.ShardAppendResult] = Collector(len(request.appends), self._driver.loop)
        for append in request.appends:
            self._replica(append.shard).on_append(sender, append, collector, now)
            self._driver.wake(append.shard)
        results = await collector.future
        return replication_pb2.AppendResponse(results=results, timing=self._timing(request, arrived))

    def _timing(self, request: replication_pb2.AppendRequest, arrived: float) -> replication_pb2.AppendTiming:
        """Where the time of an append went: the leader tells it of the requests that waited for it."""
        timing = replication_pb2.AppendTiming(total_us=_us(self._times.clock() - arrived))
        for append in request.appends:
            if append.entries:
                write = self._times.write_of(append.shard, append.previous_index + len(append.entries))
                # (Of entries that were here already, when it was sent again, the write is not this append's.)
                if write is not None and write.done > arrived:
                    timing.log_queue_us = _us(write.began - arrived)
                    timing.log_write_us, timing.fsync_us = _us(write.write_s), _us(write.fsync_s)
                    break
        return timing

    async def _read_index(self, request: replication_pb2.ReadIndexRequest) -> replication_pb2.ReadIndexResponse:
        replica = self._replica(request.shard)
        if not replica.is_leader:
            raise NotLeader(f"shard {request.shard}: {self._envelopes.me} does not lead it", shard=request.shard, leader="")
        if len(replica.raft.reads) >= limits.READS_PER_SHARD_MAX:
            raise Overloaded(f"shard {request.shard}: {limits.READS_PER_SHARD_MAX} strong reads are waiting already")
        future = self._driver.loop.create_future()
        replica.read(future, self._driver.loop.time())
        self._driver.wake(request.shard)
        return replication_pb2.ReadIndexResponse(index=await future, term=replica.raft.term)

    async def _replicate_eventual(
        self, request: replication_pb2.ReplicateEventualRequest
    ) -> replication_pb2.ReplicateEventualResponse:
        now = self._driver.loop.time()
        collector: Collector[replication_pb2.EventualHeld] = Collector(len(request.batches), self._driver.loop)
        for batch in request.batches:
            self._replica(batch.shard).on_eventual(batch, collector, now)
            self._driver.wake(batch.shard)
        return replication_pb2.ReplicateEventualResponse(held=await collector.future)


def _us(duration: Seconds) -> int:
    """Microseconds as a uint32: a disk may hang for longer than that, and the answer must leave all the same."""
    return min(max(int(duration * 1e6), 0), _UINT32_MAX)
