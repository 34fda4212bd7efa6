"""Runs the shards' pure cores: event -> core -> log -> send and answer. The duties are those of `protocol.ready.Ready`.

One turn of the event loop drains every shard that something happened to; what they want written becomes one batch for the
log thread, and while that batch is being synced the next one gathers (group commit). Answers that depend on the disk leave
when their batch is synced, in order.

A failed write is final: the driver stops everything through `on_fatal` and nothing more is answered (DESIGN section 12.8).
A full disk is not: the batch waits and is tried again until there is space, while reads go on.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import structlog

from kvnode.invariant import InvariantViolated
from kvnode.observe.log_times import LogTimes, LogWrite
from kvnode.protocol.raft.role import Role
from kvnode.protocol.ready import Ready
from kvnode.runtime.log_batch import LogBatch
from kvnode.runtime.recovery import SNAPSHOT_MARK
from kvnode.runtime.tokens import deliver
from kvnode.runtime.worker import Worker
from kvnode.shard.replica import Replica
from kvnode.storage.disk import OutOfSpace
from kvnode.storage.log import Log
from kvnode.storage.records import EntryRecord, EventualRecord, HardStateRecord, NodeRecord, Record
from kvnode.types import Index, NodeName, Seconds, Shard, Term

logger = structlog.get_logger(__name__)

SPACE_RETRY_INTERVAL: Seconds = 0.25


class Outbox(Protocol):
    """Where requests to peers go; `runtime.peers` is the real one."""

    def send(self, shard: Shard, to: NodeName, message: object) -> None: ...
    def want_append(self, shard: Shard, to: NodeName) -> None: ...
    def want_snapshot(self, shard: Shard, to: NodeName) -> None: ...
    def want_eventual(self) -> None: ...
    def want_round(self) -> None: ...


class Driver:
    """All shards of one node on one event loop and one log."""

    def __init__(
        self,
        replicas: Mapping[Shard, Replica],
        log: Log,
        log_worker: Worker,
        loop: asyncio.AbstractEventLoop,
        on_fatal: Callable[[BaseException], None],
        times: LogTimes | None = None,
    ) -> None:
        self.replicas, self.loop = replicas, loop
        self.times = times or LogTimes(lambda: 0.0)
        self.outbox: Outbox | None = None
        self.out_of_space = False
        self.on_space_wanted: Callable[[], None] = lambda: None
        self.on_settled: Callable[[Shard, Sequence[Any]], None] = lambda shard, settled: None
        self.on_disk_moves_again: Callable[[Seconds], None] = lambda seconds: None
        self.batches_written = 0
        self._log, self._log_worker, self._on_fatal = log, log_worker, on_fatal
        self._dirty: dict[Shard, None] = {}
        self._scheduled = False
        self._context = contextvars.copy_context()
        self._stopped = False
        self._next = LogBatch()
        self._writing: LogBatch | None = None
        self._writing_since: Seconds = 0.0
        self._deadlines: dict[Shard, Seconds] = {}
        self._roles: dict[Shard, tuple[bool, Term, NodeName]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due: Seconds = 0.0
        self._stalled, self._stalled_since = False, 0.0
        self._blocked: LogBatch | None = None
        """Entries and eventual writes that wait for space."""
        self._idle_waiters: list[asyncio.Future[None]] = []

    # ---- events -----------------------------------------------------------------------------------------------------

    def wake(self, shard: Shard) -> None:
        """Something happened to the shard: drain it in this turn of the loop."""
        self._dirty[shard] = None
        self._schedule()

    def write_node_record(self, record: NodeRecord) -> asyncio.Future[None]:
        """Writes something about the node with the next batch; the future is done when it is durable."""
        return self._write_record(record)

    def write_snapshot_mark(self, shard: Shard, index: Index, term: Term) -> asyncio.Future[None]:
        """Writes that a snapshot up to (index, term) was installed; see `recovery.ShardRecovery.on_entry`."""
        return self._write_record(EntryRecord(shard, index, term, SNAPSHOT_MARK, b""))

    def _write_record(self, record: Record) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self.loop.create_future()
        self._next.records.append(record)
        self._next.tokens.append((record, future))
        self._schedule()
        return future

    def stop(self) -> None:
        """Nothing is drained, written or answered from now on."""
        self._stopped = True
        if self._timer:
            self._timer.cancel()

    async def drained(self) -> None:
        """Waits until everything handed to the log is durable."""
        while (self._writing or self._blocked or self._next.records or self._scheduled) and not self._stopped:
            waiter: asyncio.Future[None] = self.loop.create_future()
            self._idle_waiters.append(waiter)
            self._schedule()
            await waiter

    @property
    def writing_blocked(self) -> bool:
        """Whether entries wait for space."""
        return self._blocked is not None

    @property
    def disk_wait(self) -> Seconds:
        """How long the oldest write has been waiting for the disk."""
        return self.loop.time() - self._writing_since if self._writing else 0.0

    def watch_disk(self, stall_after: Seconds) -> None:
        """To be called regularly: a leader whose disk hangs steps down (DESIGN section 12.6)."""
        stalled = self.disk_wait > stall_after
        if stalled != self._stalled:
            self._stalled = stalled
            if stalled:
                self._stalled_since = self._writing_since
            else:
                self.on_disk_moves_again(self.loop.time() - self._stalled_since)
            logger.warning("disk stalled" if stalled else "disk moves again", waited_ms=round(self.disk_wait * 1000))
            for shard, replica in self.replicas.items():
                replica.raft.on_disk_stalled(stalled, self.loop.time())
                self.wake(shard)

    # ---- a turn -----------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._scheduled and not self._stopped:
            self._scheduled = True
            # (In the driver's own context, not that of whichever request came first: its trace id is not the others'.)
            self.loop.call_soon(self._guarded_turn, context=self._context)

    def _guarded_turn(self) -> None:
        self._scheduled = False
        if self._stopped:
            return
        try:
            self._turn()
        except (Exception, InvariantViolated) as error:
            self.fatal(error)

    def _turn(self) -> None:
        now = self.loop.time()
        dirty, self._dirty = self._dirty, {}
        for shard in dirty:
            replica = self.replicas[shard]
            ready = replica.ready(now)
            self._deadlines[shard] = ready.deadline
            if ready.replies:
                self.times.on_apply(shard, replica.applied)
            if ready.settled:
                self.on_settled(shard, ready.settled)
            self._collect(shard, replica, ready)
            if ready.more:
                self.wake(shard)
        self._start_write()
        if self._deadlines and (dirty or self._timer is None):
            self._arm(now)

    def _collect(self, shard: Shard, replica: Replica, ready: Ready) -> None:
        outbox, batch = self.outbox, self._next
        assert outbox is not None
        self._log_role(shard, replica)
        for send in ready.send:
            outbox.send(shard, send.to, send.message)
        for peer in ready.append_to:
            outbox.want_append(shard, peer)
        for peer in ready.snapshot_to:
            outbox.want_snapshot(shard, peer)
        if ready.round_wanted:
            outbox.want_round()
        if ready.durable:
            records = batch.records
            if ready.hard_state:
                term, vote, commit = ready.hard_state
                records.append(HardStateRecord(shard, term, vote, commit))
            records.extend(EntryRecord(shard, index, term, kind, data) for index, term, kind, data in ready.entries)
            records.extend(EventualRecord(shard, data) for data in ready.eventual)
            batch.marks.append((replica, ready.durable))
        batch.answers.extend(ready.answers)
        batch.accepted.extend(ready.accepted)
        for reply in ready.replies:
            deliver(reply.token, reply.result)

    def _log_role(self, shard: Shard, replica: Replica) -> None:
        raft = replica.raft
        # (Not each pre-vote of a node that is cut off: it asks for as long as it is alone.)
        role = (raft.role is Role.LEADER, raft.term, raft.leader)
        if role != self._roles.get(shard):
            self._roles[shard] = role
            logger.info("role", shard=shard, term=raft.term, role=raft.role.value, leader=raft.leader)

    def _arm(self, now: Seconds) -> None:
        # A timer that is due too early is harmless, and re-arming at each heartbeat would cost more than its wake-up.
        due = max(min(self._deadlines.values()), now)
        if self._timer is None or due < self._timer_due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._timer_due = self.loop.call_at(due, self._on_timer), due

    def _on_timer(self) -> None:
        now = self.loop.time()
        self._timer = None
        try:
            for shard, due in self._deadlines.items():
                if due <= now:
                    self.replicas[shard].on_time(now)
                    self.wake(shard)
        except (Exception, InvariantViolated) as error:
            self.fatal(error)
        if self._timer is None and self._deadlines and not self._scheduled and not self._stopped:
            self._arm(now)

    # ---- the log ----------------------------------------------------------------------------------------------------

    def _start_write(self) -> None:
        if self._writing is not None:
            return
        batch, self._next = self._next, LogBatch()
        if self._blocked is not None:
            batch = batch.set_aside(self._blocked)
        self._submit(batch)

    def _submit(self, batch: LogBatch) -> None:
        if not batch.records:
            self._complete(batch)
            return
        self._writing, self._writing_since = batch, self.loop.time()
        write = self.times.on_submit(len(batch.records), batch.ends())
        self._log_worker.submit(self._write, batch.records, write).add_done_callback(
            lambda future: self._on_written(batch, write, future)
        )

    def _write(self, records: Sequence[Record], write: LogWrite) -> None:
        """On the log's thread."""
        write.began = self.times.clock()
        self._log.write(records)
        write.write_s, write.fsync_s = self.times.clock() - write.began, self._log.sync_s

    def _on_written(self, batch: LogBatch, write: LogWrite, future: asyncio.Future[None]) -> None:
        if self._stopped or future.cancelled():
            return
        error = future.exception()
        if isinstance(error, OutOfSpace):
            self._on_out_of_space(batch, error)
            return
        if error is not None:
            self.fatal(error)
            return
        try:
            self._writing = None
            self.batches_written += 1
            self.times.on_written(write)
            self._complete(batch)
            self._schedule()
        except (Exception, InvariantViolated) as violated:
            self.fatal(violated)

    def _complete(self, batch: LogBatch) -> None:
        now = self.loop.time()
        eventual = False
        for replica, mark in batch.marks:
            replica.on_durable(mark, now)
            self.times.on_commit(replica.shard, replica.raft.commit, replica.me.node)
            eventual = eventual or bool(mark.eventual)
            self.wake(replica.shard)
        for answer in batch.answers:
            deliver(answer.token, answer.message)
        for reply in batch.accepted:
            deliver(reply.token, reply.result)
        for _, token in batch.tokens:
            deliver(token, None)
        if eventual and self.outbox:
            self.outbox.want_eventual()
        if not self._next.records and self._writing is None:
            waiters, self._idle_waiters = self._idle_waiters, []
            for waiter in waiters:
                deliver(waiter, None)

    def _on_out_of_space(self, batch: LogBatch, error: OutOfSpace) -> None:
        self.set_out_of_space(True, str(error))
        self.on_space_wanted()
        self._writing = None
        if self._blocked is None:
            self._blocked = LogBatch()
            self.loop.call_later(SPACE_RETRY_INTERVAL, self._retry)
        small = batch.set_aside(self._blocked)
        if len(small.records) == len(batch.records):
            # Not even the reserve is left: nothing can be promised until there is space.
            self._writing = small
            self.loop.call_later(SPACE_RETRY_INTERVAL, self._resubmit, small)
            return
        self._submit(small)
        self._schedule()

    def _resubmit(self, batch: LogBatch) -> None:
        if not self._stopped:
            self._submit(batch)

    def set_out_of_space(self, full: bool, why: str = "") -> None:
        """Refuses writes, or takes them again; see `Raft.on_disk_full`."""
        if full == self.out_of_space:
            return
        self.out_of_space = full
        for replica in self.replicas.values():
            replica.raft.on_disk_full(full)
        if full:
            logger.error("out of space: writes are refused, reads go on", error=why)
        else:
            logger.info("there is space again: writes are taken")

    def _retry(self) -> None:
        if self._stopped:
            return
        if self._writing is not None:
            self.loop.call_later(SPACE_RETRY_INTERVAL, self._retry)
            return
        batch, self._blocked = self._blocked, None
        if batch is not None:
            self._submit(batch)

    def fatal(self, error: BaseException) -> None:
        """Stops for good: nothing is acknowledged after this."""
        self.stop()
        self._on_fatal(error)
