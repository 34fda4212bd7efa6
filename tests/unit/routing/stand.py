"""A node's router on its real driver, with one shard or more, a log without a disk, and peers that are answered for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from kvapi.v1 import election_pb2, failure_detection_pb2, replication_pb2
from kvnode.protocol.raft import leader
from kvnode.protocol.raft.core import RaftSettings
from kvnode.protocol.raft.log import RaftLog
from kvnode.routing.local import LocalShards
from kvnode.routing.router import Router
from kvnode.routing.shard_map import ShardMap
from kvnode.runtime.driver import Driver
from kvnode.runtime.envelope import Envelopes
from kvnode.shard.replica import Replica
from kvnode.storage.memory_store import MemoryStore
from kvnode.storage.table import Table
from kvnode.types import HardState, Origin

VOTERS = ("1", "2", "3")


class InstantLog:
    """A log whose every write is durable at once."""

    sync_s = 0.0

    def write(self, batch: object) -> None:
        """Keeps nothing."""


class InlineWorker:
    """Runs what is submitted at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """See `Worker`."""
        future = self._loop.create_future()
        future.set_result(function(*args, **kwargs))
        return future

    def close(self) -> None:
        """Nothing waits."""


class Stand:
    """Node "1"; `answer` is what the next forwarded request gets, `index` what a leader says to a read."""

    def __init__(self, loop: asyncio.AbstractEventLoop, shards: int = 1) -> None:
        """It leads every shard; most tests need `replica`, the first."""
        self.loop = loop
        self.forwarded: list[tuple[str, int]] = []
        self.answer: Any = None
        self.index = 0
        self.answers_rounds = True
        self._stamp, self._round = 1 << 16, 0
        self.replicas = {shard: self._replica(shard) for shard in range(shards)}
        self.replica = self.replicas[0]
        worker: Any = InlineWorker(loop)
        log: Any = InstantLog()
        self.driver = Driver(self.replicas, log, worker, loop, self._fatal)
        self.driver.outbox = self
        self.envelopes = Envelopes("1", "c", "u", 1, dict.fromkeys(VOTERS, ""), self._clock, lambda stamp: True)
        transport: Any = self
        self.local = LocalShards(self.driver, self.replicas, self.envelopes, transport, self._clock)
        self.map = ShardMap(1, dict.fromkeys(VOTERS, "h:1"), (VOTERS,) * shards)
        self.router = Router("1", self.map, self.local, transport, lambda node: True)
        for replica in self.replicas.values():
            self._lead(replica)

    def _replica(self, shard: int) -> Replica:
        return Replica(
            shard=shard,
            me=Origin("1", 1),
            voters=VOTERS,
            table=Table(shard, MemoryStore()),
            log=RaftLog(),
            hard_state=HardState(),
            settings=RaftSettings(),
            relay_after=0.5,
            rng=random.Random(0),
            clock=self._clock,
            now=self.loop.time(),
        )

    def _clock(self) -> int:
        self._stamp += 1
        return self._stamp

    def _fatal(self, error: BaseException) -> None:
        raise error

    def _lead(self, replica: Replica) -> None:
        raft, now = replica.raft, self.loop.time()
        raft.leader_heard_at = float("-inf")
        raft.deadline = now
        raft.on_time(now)
        raft.on_vote("2", election_pb2.RequestVoteResponse(term=1, granted=True, pre_vote=True), now)
        self._write(replica)
        raft.on_vote("2", election_pb2.RequestVoteResponse(term=1, granted=True), now)
        self._write(replica)
        self.want_append(replica.shard, "2")
        replica.ready(now)

    def _write(self, replica: Replica) -> None:
        ready = replica.ready(self.loop.time())
        if ready.durable:
            replica.on_durable(ready.durable, self.loop.time())

    def follow(self, name: str, shard: int = 0) -> None:
        """The node follows another one; "": nobody."""
        raft = self.replicas[shard].raft
        raft.become_follower(2, name, self.loop.time())
        raft.deadline = self.loop.time() + 60
        self.driver.wake(shard)

    # ---- the outbox: what peers would answer ------------------------------------------------------------------------

    def send(self, shard: int, to: str, message: object) -> None:
        """Nobody answers a campaign."""

    def want_append(self, shard: int, to: str) -> None:
        """Every append is taken at once."""
        raft = self.replicas[shard].raft
        if to not in raft.progress:
            return
        append = leader.next_append(raft, to, self.loop.time())
        if append is not None:
            last = append.previous_index + len(append.entries)
            result = replication_pb2.ShardAppendResult(term=append.term, success=True, index=last)
            raft.on_append_result(to, result, self.loop.time())
            self.driver.wake(shard)

    def want_snapshot(self, shard: int, to: str) -> None:
        """Nobody is behind."""

    def want_eventual(self) -> None:
        """Nothing spreads."""

    def want_round(self) -> None:
        """Every round is answered."""
        self._round += 1
        now = self.loop.time()
        for shard, replica in self.replicas.items():
            if not replica.is_leader:
                continue
            leader.on_round_started(replica.raft, self._round)
            ack = failure_detection_pb2.ShardAck(term=replica.raft.term, accepted=True)
            if self.answers_rounds:
                replica.raft.on_lead_ack("2", ack, self._round, now, now)
                self.driver.wake(shard)

    # ---- the transport ----------------------------------------------------------------------------------------------

    async def call(self, to: str, request: Any, timeout: float) -> Any:
        """A leader's answer to a read."""
        return replication_pb2.ReadIndexResponse(index=self.index)

    async def forward(self, to: str, request: Any, timeout: float, hops: int) -> Any:
        """Another node's answer."""
        self.forwarded.append((to, hops))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer
