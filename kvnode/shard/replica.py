"""One shard on one node: composes Raft, the held eventual writes and the state machine, and waits for nothing.

Owns which local request waits for which log index, and what each gets as its outcome. Never does I/O; see `Ready` for what
the driver owes it. Data flows one way: proposal -> Raft -> (driver: log) -> state machine -> reply.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from kvapi.v1 import failure_detection_pb2, replication_pb2
from kvnode import limits
from kvnode.errors import KvnodeError, NoLeader, OutcomeUnknown
from kvnode.invariant import invariant
from kvnode.protocol.eventual.holder import Holder
from kvnode.protocol.raft import leader
from kvnode.protocol.raft.core import Raft, RaftSettings
from kvnode.protocol.raft.log import RaftLog
from kvnode.protocol.raft.role import Role
from kvnode.protocol.ready import Answer, DurableMark, Ready, Reply
from kvnode.shard.rows import readable
from kvnode.shard.state_machine import LOCAL, StateMachine, Table
from kvnode.shard.waits import Waits
from kvnode.types import Entry, HardState, Hlc, Index, NodeName, Origin, Seconds, Shard, Term

UNKNOWN_AFTER: Seconds = 2.0
"""How long a proposal of a deposed leader waits to learn its fate before its outcome is called unknown."""
QUORUM_AGE_UNKNOWN = (1 << 64) - 1
"""`ShardLead.quorum_age_ms` of a leader that does not know yet what earlier ones committed: its commit index bounds nothing."""


class Waiting(NamedTuple):
    """A proposal on its way through the log."""

    term: Term
    token: object
    size_bytes: int


class Freshness(NamedTuple):
    """The state at applied index `index` was the leader's, or newer, at local time `at`."""

    index: Index  # type: ignore[assignment]
    at: Seconds


class Replica:
    """Feed with `propose`, `read`, `on_…`; drain with `ready`."""

    def __init__(
        self,
        shard: Shard,
        me: Origin,
        voters: Sequence[NodeName],
        table: Table,
        log: RaftLog,
        hard_state: HardState,
        settings: RaftSettings,
        relay_after: Seconds,
        rng: random.Random,
        clock: Callable[[], Hlc],
        now: Seconds,
    ) -> None:
        self.shard, self.me, self.clock = shard, me, clock
        self.machine = StateMachine(table)
        # What is flushed was committed, whatever commit index the last hard state remembers.
        hard_state = hard_state._replace(commit=max(hard_state.commit, self.machine.applied))
        self.raft = Raft(shard, me.node, voters, log, hard_state, settings, rng, self._term_start, now)
        self.holder = Holder(shard, me, limits.PENDING_EVENTUAL_PER_SHARD_MAX, relay_after)
        self.flushed: Index = self.machine.applied
        self.waiting: dict[Index, Waiting] = {}
        self.waiting_size_bytes = 0
        """Of all proposals whose fate is not known yet, whoever still waits for it."""
        self.installing = False
        """A snapshot is being installed: the log must not move."""
        self._deposed_at: Seconds | None = None
        self._sequencing, self._holds_more, self._sequence_in_flight = False, False, 0
        self._replies: list[Reply] = []
        self._accepted: list[Reply] = []
        self._eventual_due: list[replication_pb2.EventualWrite] = []
        self.waits = Waits(self.applied)
        self._fresh_candidates: list[Freshness] = []
        self.fresh: Freshness | None = None
        self._led_term: Term = 0
        self._all_applied: tuple[Term, Seconds] = (0, 0.0)
        """In which term it led, and when it had applied all that was committed, the last time."""
        self._rows_flushed: dict[bytes, None] = {}
        self._rows_in_flush: dict[bytes, None] = {}

    def _term_start(self) -> bytes:
        return replication_pb2.Command(hlc=self.clock(), term_start=replication_pb2.TermStartCommand()).SerializeToString()

    # ---- what it is -------------------------------------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        """Whether this node leads the shard, as far as it knows."""
        return self.raft.role is Role.LEADER

    @property
    def takes_proposals(self) -> bool:
        """Whether it leads and is not handing over."""
        return self.is_leader and self.raft.transfer is None

    @property
    def applied(self) -> Index:
        """Last index applied."""
        return self.machine.applied

    @property
    def caught_up(self) -> bool:
        """Whether it has applied, at some moment since its start, everything that was committed then."""
        return self.fresh is not None or self._knows_all

    @property
    def _knows_all(self) -> bool:
        """Whether it leads and has applied everything that earlier leaders committed."""
        return self.is_leader and self.applied >= self.raft.term_start_index

    # ---- local requests ---------------------------------------------------------------------------------------------

    def propose(self, proposals: Sequence[tuple[object, bytes]], now: Seconds) -> None:
        """Puts (token, command) into the log. Refused, definitely, where this node may not propose."""
        if not self.takes_proposals:
            self._replies.extend(Reply(token, self._no_leader()) for token, _ in proposals)
            return
        index = leader.propose(self.raft, [data for _, data in proposals], now)
        for token, data in proposals:
            replaced = self.waiting.get(index)
            if replaced is not None:
                # An earlier term's proposal lost its place here, but another replica may still bring it back (figure 3.7).
                self._replies.append(Reply(replaced.token, self._unknown()))
                self.waiting_size_bytes -= replaced.size_bytes
            self.waiting[index] = Waiting(self.raft.term, token, len(data))
            self.waiting_size_bytes += len(data)
            index += 1

    def read(self, token: object, now: Seconds) -> None:
        """A strong read: replied with an index, applied here, once it may read. Only for a leader."""
        if not self.is_leader:
            self._replies.append(Reply(token, self._no_leader()))
            return
        leader.on_read(self.raft, token, now)

    def end_waits(self, why: KvnodeError, is_last_word: bool) -> None:
        """Replies to whoever waits for what peers would bring: this node stops, and hears of it only while it still leads."""
        self._replies.extend(self.waits.released_by_stop(why))
        if is_last_word or not self.is_leader:
            self._give_up_waiting(lambda index, waiting: True)

    def accept(self, key: bytes, value: bytes | None, above: Hlc, token: object, now: Seconds, traceparent: str = "") -> None:
        """An eventual write of a local client, stamped above `above`: replied with the write once it is durable here."""
        hlc = max(self.clock(), above + 1)
        version = self.machine.version(key)
        # Above everything this replica shows for the key, whatever the clocks said: a client that read a value and then
        # writes must not lose against what it read.
        hlc = max(hlc, (version.hlc if version else 0) + 1, *(w.hlc + 1 for w in self._pending_at(key)), 0)
        write = self.holder.accept(key, value, hlc, self.applied, now)
        write.traceparent = traceparent
        self._eventual_due.append(write)
        self._accepted.append(Reply(token, write))

    def _pending_at(self, key: bytes) -> list[replication_pb2.EventualWrite]:
        """Eventual writes of the key without effect yet: held, or waiting for a transaction to end."""
        return [*self.machine.waiting.at_key(key), *self.holder.held_at_key(key)]

    def _no_leader(self) -> NoLeader:
        name = self.raft.leader
        where = f"the leader is {name}" if name and name != self.me.node else "it has no leader now"
        return NoLeader(f"shard {self.shard}: {self.me.node} cannot propose, {where}; try again", shard=self.shard)

    # ---- from peers -------------------------------------------------------------------------------------------------

    def on_append(self, sender: NodeName, append: replication_pb2.ShardAppend, token: object, now: Seconds) -> None:
        """A leader's entries. While a snapshot is being installed, or the disk is full, they are refused."""
        if self.installing or (self.raft.disk_full and append.entries and append.term >= self.raft.term):
            result = replication_pb2.ShardAppendResult(shard=self.shard, term=self.raft.term, out_of_space=True)
            self.raft.out_answers.append(Answer(token, result))
            return
        self.raft.on_append(sender, append, token, now)

    def on_eventual(self, batch: replication_pb2.EventualBatch, token: object, now: Seconds) -> None:
        """A peer's eventual writes: answered with what is held once that is durable."""
        origin = Origin(batch.node, batch.incarnation)
        new = self.holder.on_batch(batch, self.machine.sequenced.get(origin, 0), now)
        self._eventual_due.extend(new)
        held = replication_pb2.EventualHeld(
            shard=self.shard, node=origin.node, incarnation=origin.incarnation, held=self.holder.held(origin)
        )
        self.raft.out_answers.append(Answer(token, held))

    def lead(self, peer: NodeName, now: Seconds) -> failure_detection_pb2.ShardLead:
        """The leader's heartbeat for a follower."""
        raft = self.raft
        # Before an entry of its term is committed a leader may lag behind what its predecessor has acknowledged.
        known = leader.has_committed_in_term(raft)
        quorum_age = now - leader.quorum_heard_at(raft, now)
        return failure_detection_pb2.ShardLead(
            shard=self.shard,
            term=raft.term,
            commit=raft.commit,
            match=raft.progress[peer].match,
            quorum_age_ms=max(0, int(quorum_age * 1000) + 1) if known else QUORUM_AGE_UNKNOWN,
        )

    def on_lead(
        self, sender: NodeName, lead: failure_detection_pb2.ShardLead, heard_after: Seconds | None, now: Seconds
    ) -> bool:
        """A leader's heartbeat; `heard_after`: it was sent after this local time. Answers whether this node follows."""
        follows = self.raft.on_lead(sender, lead, now)
        if follows and heard_after is not None and lead.quorum_age_ms != QUORUM_AGE_UNKNOWN:
            fresh = Freshness(lead.commit, heard_after - lead.quorum_age_ms / 1000)
            self._fresh_candidates.append(fresh)
            self._update_freshness()
        return follows

    def staleness(self, now: Seconds) -> Seconds | None:
        """How far the applied state may be behind the leader's; None: no bound is known."""
        if self.is_leader:
            # (With a disk that is behind the others' it applies later than they do.)
            known, at = (self.raft.term, now) if self.applied >= self.raft.commit else self._all_applied
            at = min(at, leader.quorum_heard_at(self.raft, now))
            return max(0.0, now - at) if self._knows_all and known == self.raft.term else None
        return None if self.fresh is None else max(0.0, now - self.fresh.at)

    def _update_freshness(self) -> None:
        passed = [fresh for fresh in self._fresh_candidates if fresh.index <= self.applied]
        if passed:
            best = max(passed, key=lambda fresh: fresh.at)
            if self.fresh is None or best.at > self.fresh.at:
                self.fresh = best
            self._fresh_candidates = [fresh for fresh in self._fresh_candidates if fresh.index > self.applied]
        del self._fresh_candidates[:-100]

    # ---- the driver's side ------------------------------------------------------------------------------------------

    def on_time(self, now: Seconds) -> None:
        """`Ready.deadline` has passed, or may have."""
        self.raft.on_time(now)
        if self._deposed_at is not None and now >= self._deposed_at + UNKNOWN_AFTER:
            self._deposed_at = None
            self._give_up_waiting(lambda index, waiting: True)

    def on_durable(self, mark: DurableMark, now: Seconds) -> None:
        """A `Ready` is on disk."""
        for node, incarnation, sequence in mark.eventual:
            self.holder.on_durable(Origin(node, incarnation), sequence)
            self._holds_more = True
        self.raft.on_durable(mark.index, mark.term, mark.hard_term, now)

    def on_flushed(self, index: Index, entries_retained: int) -> None:
        """The store holds everything up to `index`, synced: the log may forget all but the last entries before it."""
        self.flushed = max(self.flushed, index)
        self._rows_flushed = self._rows_in_flush
        log, floor = self.raft.log, leader.snapshot_floor(self.raft)
        kept_from, size_max = self.flushed - entries_retained, limits.LOG_TAIL_SIZE_BYTES_MAX
        if floor is not None:
            kept_from, size_max = min(kept_from, floor), limits.LOG_TAIL_SIZE_BYTES_MAX_FOR_SNAPSHOT
        log.compact(min(self.flushed, max(log.offset, kept_from, log.tail_start(self.flushed, size_max))))

    def before_freeze(self) -> Index:
        """Completes the table for a flush; answers the index that it stands for."""
        self.machine.before_freeze()
        return self.applied

    def log_continues(self, index: Index, term: Term) -> bool:
        """Whether the log has a snapshot's last entry, so that what follows it stays (`RaftLog.reset`)."""
        return self.raft.log.term(index) == term

    def on_snapshot_installed(self, index: Index, term: Term) -> None:
        """The store's rows were replaced by a snapshot up to (index, term): start over from there."""
        self.machine.reload()
        invariant(self.applied == index, f"shard {self.shard}: a snapshot up to {index} holds the state of {self.applied}")
        self.flushed = self.applied
        self.raft.on_snapshot_installed(index, term)
        for origin, sequence in self.machine.sequenced.items():
            self.holder.on_sequenced(origin, sequence)
        self._give_up_waiting(lambda at, waiting: at <= index)

    def restore_held(self, writes: Sequence[replication_pb2.EventualWrite], now: Seconds) -> None:
        """Eventual writes found on disk at the start, in any order."""
        for write in sorted(writes, key=lambda w: (w.node, w.incarnation, w.sequence)):
            self.holder.restore(write, self.machine.sequenced.get(Origin(write.node, write.incarnation), 0), now)

    def local_rows(self) -> list[tuple[bytes, bytes | None]]:
        """The held eventual writes as local rows, for a flush; None deletes what the last flush held and is history now.

        With them in the store the log's eventual records from before the flush may be cut.
        """
        rows: list[tuple[bytes, bytes | None]] = [
            (LOCAL + f"{w.node}\0{w.incarnation}\0{w.sequence}".encode(), w.SerializeToString()) for w in self.holder.writes()
        ]
        held = dict.fromkeys(key for key, _ in rows)
        rows.extend((key, None) for key in self._rows_flushed if key not in held)
        # The store has them when `on_flushed` says so: after a flush that failed the old ones are still to be deleted.
        self._rows_in_flush = held
        return rows

    @readable("a stored eventual write that waits for its place")
    def restore_local_rows(self, rows: Iterable[tuple[bytes, bytes]], now: Seconds) -> None:
        """The local rows of the last flush, at the start."""
        writes = []
        for key, row in rows:
            self._rows_flushed[key] = None
            writes.append(replication_pb2.EventualWrite.FromString(row))
        self.restore_held(writes, now)

    def maybe_collect(self, live: Sequence[NodeName], now: Seconds) -> None:
        """Leader: proposes to forget tombstones that every live replica, and every live origin's waiting write, is past."""
        if not self.takes_proposals or not self.machine.tombstones or not leader.has_committed_in_term(self.raft):
            return
        followers = [p for peer, p in self.raft.progress.items() if peer in live]
        floors = [min(p.applied, p.eventual_floor) for p in followers]
        up_to = min([self.holder.own_floor(self.applied), self.machine.waiting.floor(self.applied), *floors])
        horizon = self.machine.oldest_tombstones(limits.COLLECT_TOMBSTONES_MAX, up_to)
        if horizon:
            command = replication_pb2.Command(hlc=self.clock(), collect=replication_pb2.CollectCommand(horizon=horizon))
            leader.propose(self.raft, [command.SerializeToString()], now)

    def ready(self, now: Seconds) -> Ready:
        """Everything that became due: applies what may be applied, drains what the parts have to say."""
        raft = self.raft
        self._on_role_change(now)
        more = self._apply()
        if self._knows_all and self.applied >= raft.commit:
            self._all_applied = (raft.term, now)
        if self.is_leader and self._sequencing:
            self._sequence(now)
        for read in raft.out_reads:
            if read.index is None:
                self._replies.append(Reply(read.token, self._no_leader()))
            else:
                self.waits.for_applied(read.index, read.token)
        raft.out_reads.clear()
        self._replies.extend(self.waits.released_by_state(self.applied, self._holds_more, self.machine.transactions.releases))
        self._holds_more = False
        hard_state, entries = raft.hard_state_due(), tuple(raft.entries_due())
        durable = None
        if hard_state or entries or self._eventual_due:
            durable = DurableMark(
                entries[-1].index if entries else 0,
                entries[-1].term if entries else 0,
                hard_state.term if hard_state else 0,
                tuple((w.node, w.incarnation, w.sequence) for w in self._eventual_due),
            )
        answers = tuple(self._complete(answer) for answer in raft.out_answers)
        deadline = raft.deadline
        if self._deposed_at is not None:
            deadline = min(deadline, self._deposed_at + UNKNOWN_AFTER)
        ready = Ready(
            hard_state=hard_state,
            entries=entries,
            eventual=tuple(w.SerializeToString() for w in self._eventual_due),
            durable=durable,
            send=tuple(raft.out_send),
            answers=answers,
            accepted=tuple(self._accepted),
            replies=tuple(self._replies),
            append_to=tuple(raft.append_wanted),
            snapshot_to=tuple(raft.out_snapshot_to),
            round_wanted=raft.round_wanted,
            more=more,
            deadline=deadline,
            settled=tuple(self.machine.settled),
        )
        for queue in (raft.out_send, raft.out_answers, raft.out_snapshot_to, self._replies, self._accepted, self._eventual_due):
            queue.clear()
        raft.append_wanted.clear()
        self.machine.settled.clear()
        return ready

    def _complete(self, answer: Answer) -> Answer:
        if isinstance(answer.message, replication_pb2.ShardAppendResult):
            answer.message.applied = self.applied
            answer.message.eventual_floor = self.holder.own_floor(self.applied)
        return answer

    def _on_role_change(self, now: Seconds) -> None:
        view = (self.raft.leader, self.raft.term, self.raft.transfer is not None)
        self._replies.extend(self.waits.released_by_leader(view))
        led_term = self.raft.term if self.is_leader else 0
        if led_term != self._led_term:
            self._led_term = led_term
            self._sequencing, self._sequence_in_flight = False, 0
            if led_term:
                self._give_up_waiting(lambda index, waiting: self.raft.log.term(index) != waiting.term)
            self._deposed_at = None if led_term or not self.waiting else now

    def _apply(self) -> bool:
        machine, raft = self.machine, self.raft
        last = raft.applicable
        if self.installing or machine.applied >= last:
            return False
        end = min(last, machine.applied + limits.APPLY_ENTRIES_MAX)
        for index in range(machine.applied + 1, end + 1):
            entry = raft.log.entry(index)
            self._after_apply(entry, machine.apply(entry))
        if self._fresh_candidates:
            self._update_freshness()
        return end < last

    def _after_apply(self, entry: Entry, result: object) -> None:
        if isinstance(result, list):
            for origin, sequence in result:
                self.holder.on_sequenced(origin, sequence)
            if self.is_leader and entry.term == self.raft.term:
                self._sequence_in_flight = max(0, self._sequence_in_flight - 1)
        if self.is_leader and entry.index == self.raft.term_start_index:
            # Only now the watermarks say everything that earlier leaders put into the log.
            self.holder.on_become_leader()
            self._sequencing = True
        waiting = self.waiting.pop(entry.index, None)
        if waiting is not None:
            self.waiting_size_bytes -= waiting.size_bytes
            # Another term's entry took the place: ours can never be committed (Log Matching, section 3.5).
            outcome = result if waiting.term == entry.term else self._no_leader()
            self._replies.append(Reply(waiting.token, outcome))

    def _sequence(self, now: Seconds) -> None:
        waiting = self.machine.waiting
        if (
            len(waiting) >= limits.TRANSACTION_WAITING_EVENTUAL_MAX
            or waiting.size_bytes >= limits.TRANSACTION_WAITING_EVENTUAL_SIZE_BYTES_MAX
        ):
            return
        while self._sequence_in_flight < limits.SEQUENCE_ENTRIES_IN_FLIGHT_MAX and self.takes_proposals and self.holder.size:
            writes = self.holder.next_to_sequence(
                self.machine.sequenced, limits.SEQUENCE_ENTRY_WRITES_MAX, limits.SEQUENCE_ENTRY_SIZE_BYTES_MAX
            )
            if not writes:
                return
            command = replication_pb2.Command(hlc=self.clock(), sequence=replication_pb2.SequenceCommand(writes=writes))
            leader.propose(self.raft, [command.SerializeToString()], now)
            self._sequence_in_flight += 1

    def _give_up_waiting(self, lost: Callable[[Index, Waiting], bool]) -> None:
        """Proposals that are `lost` here: whether another replica brings them back, nobody can know."""
        for index in [index for index, waiting in self.waiting.items() if lost(index, waiting)]:
            waiting = self.waiting.pop(index)
            self.waiting_size_bytes -= waiting.size_bytes
            self._replies.append(Reply(waiting.token, self._unknown()))

    def _unknown(self) -> KvnodeError:
        return OutcomeUnknown(
            f"shard {self.shard}: {self.me.node} lost leadership with the write in its log; it may take effect or not: "
            "read the key before you write again",
            shard=self.shard,
        )
