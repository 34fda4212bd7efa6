"""Requests to peers, a link a peer: appends in a pipeline, votes, eventual writes, snapshots.

The link pulls: when its pipeline has room it asks each waiting shard for its next append, so that whatever gathered
meanwhile leaves in one request. A peer that cannot be reached is tried again after a pause; nothing queues for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from kvapi.v1 import election_pb2, replication_pb2
from kvnode import limits
from kvnode.errors import KvnodeError
from kvnode.invariant import InvariantViolated
from kvnode.observe.log_times import LogTimes
from kvnode.protocol.raft import leader
from kvnode.runtime.driver import Driver
from kvnode.runtime.envelope import Envelopes
from kvnode.runtime.transport import PeerUnreachable, Transport
from kvnode.shard.replica import Replica
from kvnode.types import NodeName, Origin, Seconds, Shard

logger = structlog.get_logger(__name__)

APPEND_TIMEOUT: Seconds = 5.0
"""For one append to be answered. A frozen peer is found much earlier, by the failure detector."""
VOTE_TIMEOUT: Seconds = 1.0
RETRY_PAUSE: Seconds = 0.1
RETRY_PAUSE_MIN: Seconds = 0.005
"""The first of a row of pauses; each is twice as long as the one before, up to `RETRY_PAUSE`."""


class PeerLink:
    """Everything that leaves for one peer, except heartbeats."""

    def __init__(
        self,
        peer: NodeName,
        driver: Driver,
        replicas: Mapping[Shard, Replica],
        envelopes: Envelopes,
        transport: Transport,
        replicate_interval: Seconds,
        times: LogTimes,
    ) -> None:
        self.peer = peer
        self._driver, self._replicas, self._envelopes, self._transport = driver, replicas, envelopes, transport
        self._replicate_interval, self._times = replicate_interval, times
        self._loop = driver.loop
        self._shards = [shard for shard, replica in replicas.items() if peer in replica.raft.voters]
        self._wanted: dict[Shard, None] = {}
        self._in_flight = 0
        self._paused = False
        self._pumping = False
        self._eventual = asyncio.Event()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._closed = False

    def start(self) -> None:
        """Begins to pass eventual writes on."""
        # Writes that this node accepted in an earlier incarnation may be held by nobody else: nothing but a new write would
        # wake the loop for them.
        self._eventual.set()
        self._spawn(self._replicate_eventual(), "eventual")

    async def stop(self) -> None:
        """Ends all tasks."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, coroutine: Any, what: str) -> None:
        if self._closed:
            coroutine.close()
            return
        task = self._loop.create_task(coroutine, name=f"{what} to {self.peer}")
        self._tasks[task] = None
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._driver.fatal(error)

    # ---- appends ----------------------------------------------------------------------------------------------------

    def want_append(self, shard: Shard) -> None:
        """The shard has something for the peer."""
        self._wanted[shard] = None
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        try:
            self._fill_pipeline()
        except (Exception, InvariantViolated) as error:
            self._driver.fatal(error)

    def _fill_pipeline(self) -> None:
        while self._wanted and self._in_flight < limits.APPENDS_IN_FLIGHT_MAX and not self._paused and not self._closed:
            request = self._next_request()
            if request is None:
                return
            self._in_flight += 1
            self._spawn(self._append(request), "append")

    def _next_request(self) -> replication_pb2.AppendRequest | None:
        now = self._loop.time()
        request = replication_pb2.AppendRequest()
        wanted, self._wanted = self._wanted, {}
        size = 0
        for shard in wanted:
            if size > limits.APPEND_SIZE_BYTES_MAX:
                self._wanted[shard] = None
                continue
            replica = self._replicas[shard]
            append = leader.next_append(replica.raft, self.peer, now) if replica.is_leader else None
            self._driver.wake(shard)
            if append is not None:
                request.appends.append(append)
                size += append.ByteSize()
        if not request.appends:
            return None
        self._envelopes.seal(self.peer, request)
        return request

    async def _append(self, request: replication_pb2.AppendRequest) -> None:
        sent = self._times.clock()
        try:
            response = await self._transport.call(self.peer, request, APPEND_TIMEOUT)
        except (PeerUnreachable, KvnodeError):
            self._on_append_failed(request)
            return
        finally:
            self._in_flight -= 1
        now = self._loop.time()
        for result in response.results:
            raft = self._replicas[result.shard].raft
            raft.on_append_result(self.peer, result, now)
            if result.success:
                self._times.on_append(result.shard, self.peer, result.index, sent, response.timing)
                self._times.on_commit(result.shard, raft.commit, self.peer)
            self._driver.wake(result.shard)
        if self._wanted:
            self.want_append(next(iter(self._wanted)))

    def _on_append_failed(self, request: replication_pb2.AppendRequest) -> None:
        now = self._loop.time()
        for append in request.appends:
            replica = self._replicas[append.shard]
            if replica.is_leader and replica.raft.term == append.term:
                leader.on_append_failed(replica.raft, self.peer, now)
                self._driver.wake(append.shard)
                self._wanted[append.shard] = None
        if not self._paused:
            self._paused = True
            self._loop.call_later(RETRY_PAUSE, self._resume)

    def _resume(self) -> None:
        self._paused = False
        self._pump()

    # ---- elections --------------------------------------------------------------------------------------------------

    def send(self, shard: Shard, message: Any) -> None:
        """A vote request, or the word to campaign."""
        self._spawn(self._ask(shard, message), "election")

    async def _ask(self, shard: Shard, message: Any) -> None:
        raft, refused = self._replicas[shard].raft, False
        try:
            response = await self._transport.call(self.peer, self._envelopes.seal(self.peer, message), VOTE_TIMEOUT)
        except PeerUnreachable as error:
            refused = error.refused
        except KvnodeError:
            refused = True
        else:
            if isinstance(response, election_pb2.RequestVoteResponse):
                raft.on_vote(self.peer, response, self._loop.time())
            else:
                refused = response.refused
        if refused and isinstance(message, election_pb2.TimeoutNowRequest):
            leader.on_transfer_refused(raft, self.peer, message.term)
        self._driver.wake(shard)

    # ---- eventual writes --------------------------------------------------------------------------------------------

    def want_eventual(self) -> None:
        """Eventual writes became durable here: pass them on."""
        self._eventual.set()

    async def _replicate_eventual(self) -> None:
        pause = self._replicate_interval
        while True:
            await self._wait_for_eventual()
            self._eventual.clear()
            now = self._loop.time()
            request = replication_pb2.ReplicateEventualRequest()
            room, size = limits.EVENTUAL_BATCH_WRITES_MAX, limits.EVENTUAL_BATCH_SIZE_BYTES_MAX
            # The shard that came first comes last the next time: a peer that takes nothing for it must not starve the others.
            self._shards = self._shards[1:] + self._shards[:1]
            for replica in (self._replicas[shard] for shard in self._shards):
                batches = replica.holder.batches_for(self.peer, room, size, now)
                room -= sum(len(batch.writes) for batch in batches)
                size -= sum(batch.ByteSize() for batch in batches)
                request.batches.extend(batches)
            if request.batches:
                # A peer that cannot be reached, or takes nothing more (it is full, or has to apply first), is asked less often.
                # (It may also be about to hear that a write is committed, which takes some milliseconds.)
                advanced = await self._replicate(request)
                self._eventual.set()
                pause = self._replicate_interval if advanced else min(max(2 * pause, RETRY_PAUSE_MIN), RETRY_PAUSE)
                await asyncio.sleep(pause)

    async def _wait_for_eventual(self) -> None:
        now = self._loop.time()
        deadlines = [r.holder.relay_deadline(now) for r in self._replicas.values() if r.holder.size]
        due = min((deadline for deadline in deadlines if deadline is not None), default=None)
        if due is None:
            await self._eventual.wait()
            return
        # Others' writes that wait for long are passed on; what the peer holds already is asked about once an interval.
        timer = self._loop.call_at(max(due, now + RETRY_PAUSE), self._eventual.set)
        try:
            await self._eventual.wait()
        finally:
            timer.cancel()

    async def _replicate(self, request: replication_pb2.ReplicateEventualRequest) -> bool:
        sent = self._times.clock()
        try:
            response = await self._transport.call(self.peer, self._envelopes.seal(self.peer, request), APPEND_TIMEOUT)
        except (PeerUnreachable, KvnodeError):
            return False
        traced = [write for batch in request.batches for write in batch.writes if write.traceparent]
        if traced:
            self.on_replicated(self.peer, traced, sent)
        advanced = False
        for held in response.held:
            holder = self._replicas[held.shard].holder
            advanced = holder.on_peer_holds(self.peer, Origin(held.node, held.incarnation), held.held) or advanced
            self.on_held(held.shard)
        return advanced

    on_replicated: Callable[[NodeName, Sequence[replication_pb2.EventualWrite], float], None] = staticmethod(
        lambda peer, writes, sent: None
    )
    """Called with the sampled ones of writes that a peer has taken, and when they left."""
    on_held: Callable[[Shard], None] = staticmethod(lambda shard: None)
    """Called when a peer holds more: callers who asked for several acknowledgements wait for it."""

    # ---- snapshots --------------------------------------------------------------------------------------------------

    def want_snapshot(self, shard: Shard, send: Callable[[NodeName, Shard], Any]) -> None:
        """The peer needs a snapshot of the shard; `send` is the coroutine function that brings it there."""
        self._spawn(send(self.peer, shard), f"snapshot of shard {shard}")
