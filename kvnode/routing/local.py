"""Operations on the shards that this node holds: they wait for the core's outcome, within the caller's deadline.

Owns admission (bounded numbers of waiting requests), what a replica shows of the eventual writes it holds, and what every
answer says was served. Never chooses a node: `router` does.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from kvapi.v1 import kv_pb2, replication_pb2
from kvnode import limits
from kvnode.errors import (
    DeadlineExpired,
    InvalidRequest,
    KvnodeError,
    NoLeader,
    NoSpace,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    Unavailable,
)
from kvnode.observe.stages import ACKS, LOG_QUEUE, READ_INDEX, REPLY, SESSION_WAIT, UNTIMED, Timeline
from kvnode.protocol.eventual.verdict import Current, Stamp, verdict
from kvnode.protocol.raft.role import Role
from kvnode.protocol.two_phase_commit.locks import Locks
from kvnode.routing import session
from kvnode.routing.context import RequestContext
from kvnode.routing.locks import LockWaits
from kvnode.runtime.driver import Driver
from kvnode.runtime.envelope import Envelopes
from kvnode.runtime.transport import PeerUnreachable, Transport
from kvnode.shard.replica import Replica
from kvnode.shard.state_machine import Applied
from kvnode.shard.superseded import operation_id
from kvnode.shard.transactions import Locked
from kvnode.shard.version import Version
from kvnode.types import Hlc, Index, Origin, Seconds, Shard

ROLES: Mapping[Role, kv_pb2.Role] = {
    Role.FOLLOWER: kv_pb2.ROLE_FOLLOWER,
    Role.PRE_CANDIDATE: kv_pb2.ROLE_CANDIDATE,
    Role.CANDIDATE: kv_pb2.ROLE_CANDIDATE,
    Role.LEADER: kv_pb2.ROLE_LEADER,
}
FATE_WAIT_MAX: Seconds = 0.7
"""How long a node that has said that it stops waits for the fate of its writes; less than its server's time of grace."""
SCAN_ROWS_PER_TURN = 2_000
"""Rows counted in one turn of the event loop."""


class Seen(NamedTuple):
    """What a replica shows for a key."""

    version: Version
    tentative: EventualOrigin | None
    """Of a held write without a place in the log."""


class EventualOrigin(NamedTuple):
    """Which eventual write a tentative value comes from."""

    origin: Origin
    sequence: int


class LocalShards:
    """The replicas of this node, as the router uses them."""

    def __init__(
        self,
        driver: Driver,
        replicas: Mapping[Shard, Replica],
        envelopes: Envelopes,
        transport: Transport,
        clock: Callable[[], Hlc],
    ) -> None:
        self.driver, self.replicas = driver, replicas
        self._envelopes, self._transport, self._clock = envelopes, transport, clock
        self._times = driver.times
        self._loop = driver.loop
        self.locks = LockWaits(driver.loop, clock, self.check_serving)
        self._ack_waiters: dict[Shard, list[tuple[int, int, asyncio.Future[None]]]] = {}
        self.serving = True
        self.is_outcast: Callable[[], bool] = lambda: False

    # ---- waiting ----------------------------------------------------------------------------------------------------

    async def _wait(self, future: asyncio.Future[Any], context: RequestContext, late: Callable[[], KvnodeError]) -> Any:
        timer = self._loop.call_at(context.deadline, _expire, future, late)
        try:
            return await future
        finally:
            timer.cancel()

    def _check_deadline(self, context: RequestContext) -> None:
        if self._loop.time() >= context.deadline:
            raise DeadlineExpired("the deadline passed before the request was proposed; nothing was stored")

    def stop_serving(self) -> None:
        """This node stops: whoever waits, or would, for something that peers bring is told so and can go elsewhere at once.

        Where nobody took over, a leader's writes may still be committed: their fate is called unknown a little later, while
        there is time to say so.
        """
        self.serving = False
        self._end_waits(is_last_word=False)
        self._loop.call_later(FATE_WAIT_MAX, self._end_waits, True)

    def _end_waits(self, is_last_word: bool) -> None:
        for shard, replica in self.replicas.items():
            replica.end_waits(self._stopping(), is_last_word)
            self.driver.wake(shard)

    def check_serving(self) -> None:
        """Raises `Unavailable` where it would be in vain to wait here."""
        if not self.serving:
            raise self._stopping()

    def _stopping(self) -> Unavailable:
        return Unavailable(f"{self._envelopes.me} is stopping; use another node")

    def _check_writable(self) -> None:
        self.check_serving()
        if self.is_outcast():
            raise Unavailable(
                f"{self._envelopes.me} is refused by its peers (its log says why): it must not take writes; use another node"
            )
        if self.driver.out_of_space:
            raise NoSpace(f"{self._envelopes.me} has no disk space left: writes are refused until there is; reads go on")

    # ---- strong -----------------------------------------------------------------------------------------------------

    async def execute(
        self, replica: Replica, command: replication_pb2.Command, wanted: Locks, context: RequestContext
    ) -> Applied:
        """Has a strong write applied on this leader, once no transaction holds a lock that is in the way of `wanted`."""
        age = self.locks.age()
        while True:
            await self.locks.until_free(replica, wanted, context, age)
            result = await self.propose(replica, command, context)
            if not isinstance(result, Locked):
                return result

    async def propose(self, replica: Replica, command: replication_pb2.Command, context: RequestContext) -> Applied:
        """Proposes a command on this leader and waits until it is applied."""
        self._check_deadline(context)
        self._check_writable()
        if len(replica.waiting) >= limits.PROPOSALS_PER_SHARD_MAX:
            raise Overloaded(
                f"shard {replica.shard}: {limits.PROPOSALS_PER_SHARD_MAX} writes are waiting already", shard=replica.shard
            )
        command.hlc = self._clock()
        data = command.SerializeToString()
        waiting_bytes = sum(other.waiting_size_bytes for other in self.replicas.values())
        if waiting_bytes + len(data) > limits.PROPOSED_SIZE_BYTES_MAX:
            raise Overloaded(f"{self._envelopes.me}: {limits.PROPOSED_SIZE_BYTES_MAX} bytes of writes are waiting already")
        future = self._loop.create_future()
        context.timeline.enter(LOG_QUEUE)
        index = replica.raft.log.last_index + 1
        replica.propose([(future, data)], self._loop.time())
        self.driver.wake(replica.shard)
        try:
            result: Applied = await self._wait(future, context, lambda: self._late_write(replica.shard))
            return result
        finally:
            context.timeline.proposed(self._times, replica.shard, index)

    def _late_write(self, shard: Shard) -> KvnodeError:
        return OutcomeUnknown(
            f"shard {shard}: the deadline passed with the write in the log of {self._envelopes.me}; it may take effect or not: "
            "read the key before you write again",
            shard=shard,
        )

    async def read_barrier(self, replica: Replica, leader_name: str, context: RequestContext) -> Index:
        """Waits until this replica's applied state is one that a linearizable read may see (ReadIndex); answers the index.

        What is locked by votes up to that index may be committed already: see `LockWaits.until_readable`.
        """
        self._check_deadline(context)
        context.timeline.shard = replica.shard
        context.timeline.enter(READ_INDEX)
        future = self._loop.create_future()
        if replica.is_leader:
            if len(replica.raft.reads) >= limits.READS_PER_SHARD_MAX:
                raise Overloaded(f"shard {replica.shard}: {limits.READS_PER_SHARD_MAX} strong reads are waiting already")
            replica.read(future, self._loop.time())
        else:
            index = await self._ask_index(replica.shard, leader_name, context)
            self.check_serving()
            replica.waits.for_applied(index, future)
        self.driver.wake(replica.shard)
        try:
            applied: Index = await self._wait(future, context, lambda: self._late_read(replica.shard))
            context.timeline.enter(REPLY)
            return applied
        finally:
            replica.waits.forget(future)

    async def _ask_index(self, shard: Shard, leader_name: str, context: RequestContext) -> Index:
        request = self._envelopes.seal(leader_name, replication_pb2.ReadIndexRequest(shard=shard))
        try:
            response = await self._transport.call(leader_name, request, context.deadline - self._loop.time())
        except NotLeader as error:
            raise NoLeader(f"shard {shard}: {leader_name} does not lead it any more; try again", shard=shard) from error
        except PeerUnreachable as error:
            raise NoLeader(f"shard {shard}: its leader {leader_name} does not answer: {error}", shard=shard) from error
        index: Index = response.index
        return index

    def _late_read(self, shard: Shard) -> KvnodeError:
        return DeadlineExpired(
            f"shard {shard}: the deadline passed before a majority confirmed the leader of the read", shard=shard
        )

    # ---- eventual ---------------------------------------------------------------------------------------------------

    async def accept(
        self, replica: Replica, key: bytes, value: bytes | None, acks: int, token: bytes, context: RequestContext
    ) -> tuple[replication_pb2.EventualWrite, int]:
        """Accepts an eventual write here; answers it, and how many replicas hold it durably.

        The session's earlier writes and reads, maybe on nodes with faster clocks, come before it.
        """
        self._check_deadline(context)
        self._check_writable()
        replicas = len(replica.raft.voters)
        if acks > replicas:
            raise InvalidRequest("acks", f"{acks}, shard {replica.shard} has {replicas} replicas")
        if replica.holder.is_full:
            raise Overloaded(
                f"shard {replica.shard}: {limits.PENDING_EVENTUAL_PER_SHARD_MAX} eventual writes wait for a place in the log; "
                "is a majority of its replicas reachable?",
                shard=replica.shard,
            )
        future = self._loop.create_future()
        seen = session.position(session.decode(token), replica.shard) if token else None
        # (A token is a client's word: no stamp of the future comes in by it.)
        above = min(seen.hlc, self._clock() + (limits.CLOCK_SKEW_MS_MAX << 16)) if seen else 0
        timeline = context.timeline
        timeline.enter(LOG_QUEUE)
        replica.accept(key, value, above, future, self._loop.time(), timeline.traceparent)
        self.driver.wake(replica.shard)
        write = await self._wait(future, context, lambda: self._late_write(replica.shard))
        timeline.accepted(self._times, replica.shard, write.sequence)
        if acks <= 1:
            return write, 1
        timeline.enter(ACKS)
        held = await self._wait_acks(replica, write.sequence, acks, context)
        timeline.enter(REPLY)
        return write, held

    async def _wait_acks(self, replica: Replica, sequence: int, acks: int, context: RequestContext) -> int:
        holder = replica.holder
        holder.ack_wanted = max(holder.ack_wanted, sequence)
        future: asyncio.Future[None] = self._loop.create_future()
        self._ack_waiters.setdefault(replica.shard, []).append((sequence, acks, future))
        self.on_held(replica.shard)
        if self.driver.outbox:
            self.driver.outbox.want_eventual()
        await self._wait(future, context, lambda: self._late_acks(replica, sequence, acks))
        return holder.replicas_holding(sequence)

    def _late_acks(self, replica: Replica, sequence: int, acks: int) -> KvnodeError:
        held = replica.holder.replicas_holding(sequence)
        return OutcomeUnknown(
            f"shard {replica.shard}: the write is durable on {held} replicas, not yet on {acks}; it goes on spreading",
            shard=replica.shard,
            acks=held,
            operation_id=operation_id(replica.shard, replica.me, sequence),
        )

    def on_held(self, shard: Shard) -> None:
        """A peer holds more of this node's writes: who waits for that?"""
        waiters = self._ack_waiters.get(shard)
        if not waiters:
            return
        still = []
        for sequence, acks, future in waiters:
            if future.done():
                continue
            if self.replicas[shard].holder.replicas_holding(sequence) >= acks:
                future.set_result(None)
            else:
                still.append((sequence, acks, future))
        self._ack_waiters[shard] = still

    async def wait_session(
        self, replica: Replica, seen: kv_pb2.SessionPosition | None, until: Seconds, timeline: Timeline = UNTIMED
    ) -> bool:
        """Waits until the replica has what the session has seen; False when it has not by `until`."""
        if session.is_served_by(replica, seen):
            return True
        timeline.enter(SESSION_WAIT)
        while not session.is_served_by(replica, seen):
            self.check_serving()
            if self._loop.time() >= until:
                return False
            future = self._loop.create_future()
            replica.waits.for_change(future)
            timer = self._loop.call_at(until, _wake, future)
            try:
                await future
            finally:
                timer.cancel()
                replica.waits.forget(future)
        timeline.enter(REPLY)
        return True

    # ---- what is seen -----------------------------------------------------------------------------------------------

    def seen(self, replica: Replica, key: bytes, tentative: bool) -> Seen | None:
        """The key as this replica shows it, a deletion too; None: nothing is known of it. `tentative`: with the eventual writes
        it holds."""
        version = replica.machine.version(key)
        shown = self._overlay(replica, key, version) if tentative else None
        if shown is None and version is not None:
            shown = Seen(version, None)
        return shown

    def _overlay(self, replica: Replica, key: bytes, version: Version | None) -> Seen | None:
        # (What waits for a transaction to end has its place in the log, and no effect yet.)
        held = [*replica.machine.waiting.at_key(key), *replica.holder.at_key(key)]
        shown: Seen | None = None
        current: Current | None = version.current if version else None
        for write in sorted(held, key=lambda w: (w.hlc, w.node, w.incarnation)):
            stamp = Stamp(write.hlc, write.node, write.incarnation)
            if verdict(stamp, write.base, current, replica.machine.horizon) is None:
                strong_index = current.strong_index if current else replica.machine.horizon
                current = Current(stamp, 0, strong_index)
                value = None if write.deletion else write.value
                as_version = Version(0, 0, 0, write.hlc, strong_index, write.node, write.incarnation, value)
                shown = Seen(as_version, EventualOrigin(Origin(write.node, write.incarnation), write.sequence))
        return shown

    def scan(self, replica: Replica, start: bytes, end: bytes | None, tentative: bool) -> Iterator[tuple[bytes, Seen | None]]:
        """The keys of [start, end) in order, None for those that do not exist (any more), so that whoever reads can count what
        it cost; valid while only synchronous code runs."""
        rows: Iterator[tuple[bytes, Version | None]] = replica.machine.scan(start, end)
        waiting = replica.machine.waiting
        if tentative and (replica.holder.size or waiting):
            keys = dict.fromkeys([*replica.holder.keys_held(), *waiting.keys()])
            held = sorted(key for key in keys if start <= key and (end is None or key < end))
            rows = _merge(rows, iter([(key, None) for key in held]))
        for key, version in rows:
            shown = self._overlay(replica, key, version) if tentative else None
            if shown is None and version is not None:
                shown = Seen(version, None)
            yield key, shown if shown is not None and shown.version.value is not None else None

    # ---- what was served --------------------------------------------------------------------------------------------

    def served(
        self,
        replica: Replica,
        consistency: kv_pb2.Consistency,
        token: bytes,
        revision: Index | None = None,
        writes: dict[Origin, int] | None = None,
        hlc: Hlc = 0,
    ) -> kv_pb2.Served:
        """What an answer says about itself. `revision`: what the operation saw, or the applied index."""
        applied = replica.applied
        served = kv_pb2.Served(
            node=self._envelopes.me,
            role=ROLES[replica.raft.role],
            consistency=consistency,
            shard=replica.shard,
            revision=applied,
            hlc=self._clock(),
            session=session.advance(token, replica, applied if revision is None else revision, writes or {}, hlc),
        )
        if consistency == kv_pb2.CONSISTENCY_STRONG:
            served.staleness_ms = 0
        else:
            staleness = replica.staleness(self._loop.time())
            if staleness is not None:
                served.staleness_ms = int(staleness * 1000) + 1
        return served


def _expire(future: asyncio.Future[Any], late: Callable[[], KvnodeError]) -> None:
    if not future.done():
        future.set_exception(late())


def _wake(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)


def _merge(
    rows: Iterator[tuple[bytes, Version | None]], held: Iterator[tuple[bytes, Version | None]]
) -> Iterator[tuple[bytes, Version | None]]:
    """Rows and held keys in key order, each key once; the row wins."""
    last: bytes | None = None
    for key, version in heapq.merge(rows, held, key=lambda row: row[0]):
        if key != last:
            yield key, version
        last = key
