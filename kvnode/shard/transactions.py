"""The transactions that one shard has voted for, and how those ended: the replicated part of two-phase commit.

Owns the rows of transactions and the locks that follow from them. Changed by log entries alone; reads no clock. What a state
may become is in the tables of `protocol/two_phase_commit/participant.py`.

Invariants (DESIGN section 12.10): the first decision in the anchor's log wins; a lock is held from the entry that voted to the
entry that ended, and by nothing else; what comes late for a transaction that ended finds its end, or is at or below the horizon
and refused; a decision to commit is kept until every participant has applied it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from kvapi.v1 import replication_pb2, two_phase_commit_pb2
from kvnode import limits
from kvnode.protocol.two_phase_commit.locks import Locks, LockTable
from kvnode.protocol.two_phase_commit.participant import ANCHOR, PARTICIPANT, Event, State, next_state
from kvnode.shard.evaluate import Results, locks_of
from kvnode.types import Hlc, Index, Shard, Txn


@dataclass(slots=True)
class Prepared:
    """This shard has voted yes and waits for the decision."""

    command: replication_pb2.PrepareCommand
    index: Index
    """Of the vote; the revision of what it writes."""
    matched: bool
    """Whether this shard's comparisons hold."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class End:
    """How a transaction ended."""

    committed: bool
    succeeded: bool = False
    """Which branch was taken."""
    committed_at: Hlc = 0
    unresolved: tuple[Shard, ...] = ()
    """Of the anchor: participants that may not have applied it."""
    number: int = 0
    """The order of the ends in this shard."""


class Vote(NamedTuple):
    """Yes: the locks are held, the writes are staged."""

    index: Index  # type: ignore[assignment]
    matched: bool
    then: Results
    """What the operations of the branch answer, should it be taken; empty where it cannot be."""
    otherwise: Results


class Locked(NamedTuple):
    """Nothing happened: these transactions hold locks that are in the way."""

    holders: tuple[Txn, ...]


class Ended(NamedTuple):
    """Nothing happened: it ended already, or is too old to know."""

    end: End
    horizon: Hlc


def txn_of(pb: two_phase_commit_pb2.TransactionId) -> Txn:
    """The transaction that the message names."""
    return Txn(pb.start, pb.id)


class Transactions:
    """One shard's transactions."""

    def __init__(self, releases: int = 0) -> None:
        self.prepared: dict[Txn, Prepared] = {}
        self.spreading: dict[Txn, End] = {}
        """Of the anchor: committed, and maybe not applied by all."""
        self.ended: OrderedDict[Txn, End] = OrderedDict()
        """The oldest end first."""
        self.horizon: Hlc = 0
        """The largest start of any transaction whose end is forgotten."""
        self.ends = 0
        """How many have ended here; also the number of the latest end."""
        self.releases = releases
        """How often a transaction ended here since this process began: somebody may wait for its locks, or for its own."""
        self.locks = LockTable()
        self.size_bytes = 0
        self._changed_prepared: dict[Txn, None] = {}
        self._changed_ends: dict[int, Txn | None] = {}

    # ---- asking -----------------------------------------------------------------------------------------------------

    def end_of(self, txn: Txn) -> End | None:
        """How it ended; of one that is forgotten, aborted; None: it has not ended here."""
        return self.ended.get(txn) or self.spreading.get(txn) or (End(committed=False) if self.is_forgotten(txn) else None)

    def is_forgotten(self, txn: Txn) -> bool:
        """Whether it is too old to know how, or whether, it ended here. Whatever it asks for now is refused."""
        known = txn in self.prepared or txn in self.ended or txn in self.spreading
        return txn.start <= self.horizon and not known

    def state_of(self, txn: Txn) -> State:
        """What this shard knows of it."""
        if txn in self.prepared:
            return State.PREPARED
        end = self.end_of(txn)
        if end is None:
            return State.INIT
        return State.COMMITTED if end.committed else State.ABORTED

    @property
    def is_full(self) -> bool:
        """Whether no further transaction can be prepared."""
        return (
            len(self.prepared) >= limits.TRANSACTIONS_PREPARED_PER_SHARD_MAX
            or self.size_bytes >= limits.TRANSACTIONS_PREPARED_SIZE_BYTES_MAX
            or self.locks.ranges >= limits.TRANSACTION_RANGES_PER_SHARD_MAX
        )

    # ---- changing ---------------------------------------------------------------------------------------------------

    def on_prepare(self, command: replication_pb2.PrepareCommand, index: Index, matched: bool, locks: Locks) -> None:
        """Takes the locks, which nobody holds."""
        txn = txn_of(command.transaction)
        next_state(PARTICIPANT, self.state_of(txn), Event.PREPARE, f"transaction {txn}")
        self._hold(txn, Prepared(command, index, matched, command.ByteSize()), locks)
        self._changed_prepared[txn] = None

    def _hold(self, txn: Txn, prepared: Prepared, locks: Locks) -> None:
        self.prepared[txn] = prepared
        self.size_bytes += prepared.size_bytes
        self.locks.take(txn, locks)

    def on_decide(self, command: replication_pb2.DecideCommand, now: Hlc) -> tuple[End, Prepared | None]:
        """The anchor's decision, or the one that was first; with it, if this ended it, what had been voted for here."""
        txn = txn_of(command.transaction)
        event = Event.COMMIT if command.commit else Event.ABORT
        before = self.state_of(txn)
        after = next_state(ANCHOR, before, event, f"transaction {txn} at its anchor")
        known = self.end_of(txn)
        if after is before and known is not None:
            return known, None
        prepared = self._release(txn)
        end = End(committed=False)
        if after is State.COMMITTED:
            assert prepared is not None
            others = tuple(shard for shard in prepared.command.participants if shard != prepared.command.anchor)
            end = End(True, command.succeeded, now, others)
        return self._remember(txn, end), prepared

    def on_resolve(self, command: replication_pb2.ResolveCommand) -> tuple[End, Prepared | None]:
        """What the anchor decided. As `on_decide`."""
        txn = txn_of(command.transaction)
        if self.is_forgotten(txn):
            return End(command.commit, command.succeeded, command.committed_at), None
        end = self.end_of(txn)
        if end is not None:
            # (Should the two ever differ, whoever asked finds out: see `Participants.resolve`. An entry must not halt every
            # replica, now and at each start.)
            return end, None
        event = Event.COMMIT if command.commit else Event.ABORT
        next_state(PARTICIPANT, self.state_of(txn), event, f"transaction {txn}")
        prepared = self._release(txn)
        return self._remember(txn, End(command.commit, command.succeeded, command.committed_at)), prepared

    def on_forget(self, txns: Iterable[Txn]) -> None:
        """Every participant has applied these decisions: they may be forgotten in time."""
        for txn in txns:
            end = self.spreading.pop(txn, None)
            if end is not None:
                self._drop_row(end.number, txn)
                self._remember(txn, replace(end, unresolved=()))

    def _release(self, txn: Txn) -> Prepared | None:
        self.releases += 1
        prepared = self.prepared.pop(txn, None)
        if prepared is not None:
            self.size_bytes -= prepared.size_bytes
            self.locks.release(txn)
            self._changed_prepared[txn] = None
        return prepared

    def _remember(self, txn: Txn, end: End) -> End:
        self.ends += 1
        end = replace(end, number=self.ends)
        self._changed_ends[end.number] = txn
        if end.unresolved:
            self.spreading[txn] = end
            return end
        self.ended[txn] = end
        if len(self.ended) > limits.TRANSACTIONS_ENDED_PER_SHARD_MAX:
            forgotten, old = self.ended.popitem(last=False)
            self.horizon = max(self.horizon, forgotten.start)
            self._drop_row(old.number, forgotten)
        return end

    def _drop_row(self, number: int, txn: Txn) -> None:
        if self._changed_ends.get(number) == txn:
            del self._changed_ends[number]  # It was never stored.
        else:
            self._changed_ends[number] = None

    # ---- rows -------------------------------------------------------------------------------------------------------

    def prepared_rows_due(self) -> Iterator[tuple[Txn, bytes | None]]:
        """Votes that changed since the last call; None: ended."""
        changed, self._changed_prepared = self._changed_prepared, {}
        for txn in changed:
            one = self.prepared.get(txn)
            if one is None:
                yield txn, None
            else:
                row = replication_pb2.PreparedTransaction(command=one.command, index=one.index, matched=one.matched)
                yield txn, row.SerializeToString()

    def ended_rows_due(self) -> Iterator[tuple[int, bytes | None]]:
        """Ends that changed since the last call, by number; None: forgotten."""
        changed, self._changed_ends = self._changed_ends, {}
        for number, txn in changed.items():
            end = None if txn is None else self.ended.get(txn) or self.spreading.get(txn)
            if txn is None or end is None or end.number != number:
                yield number, None
                continue
            row = replication_pb2.EndedTransaction(
                transaction=two_phase_commit_pb2.TransactionId(start=txn.start, id=txn.id),
                committed=end.committed,
                succeeded=end.succeeded,
                committed_at=end.committed_at,
                unresolved=end.unresolved,
                number=number,
            )
            yield number, row.SerializeToString()

    def restore(self, prepared: Iterable[bytes], ended: Iterable[bytes], horizon: Hlc, ends: int) -> None:
        """From what was stored; `ended` in the order of their numbers."""
        self.horizon, self.ends = horizon, ends
        for row in prepared:
            one = replication_pb2.PreparedTransaction.FromString(row)
            held = Prepared(one.command, one.index, one.matched, one.command.ByteSize())
            self._hold(txn_of(one.command.transaction), held, locks_of(one.command.part))
        for row in ended:
            old = replication_pb2.EndedTransaction.FromString(row)
            end = End(old.committed, old.succeeded, old.committed_at, tuple(old.unresolved), old.number)
            (self.spreading if end.unresolved else self.ended)[txn_of(old.transaction)] = end
