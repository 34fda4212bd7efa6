"""What must be on a node's disk, told from what its log and store have answered: the reference for "durable before said".

Owns: for each node, a model of every shard's term, vote, entries and held eventual writes whose `Log.write` has returned, and
the store's position. Never: looks into the log's files, or at what the node believes.

The model is kept over crashes; each start is compared with it, so that a loss is found where it happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvapi.v1 import replication_pb2
from kvnode.shard.state_machine import META, StateMachine
from kvnode.storage.memory_store import MemoryStore
from kvnode.storage.records import EntryRecord, EventualRecord, HardStateRecord, Record
from kvnode.types import Index, NodeName, Origin, Shard, Term

if TYPE_CHECKING:
    from kvnode.shard.replica import Replica


@dataclass(slots=True)
class DurableShard:
    """One shard's share of one disk."""

    term: Term = 0
    vote: NodeName = ""
    entries: dict[Index, Term] = field(default_factory=dict)
    """Contiguous; of what the store holds, older entries may be left."""
    last: Index = 0
    eventual: dict[Origin, dict[int, None]] = field(default_factory=dict)

    @property
    def end(self) -> tuple[Term, Index]:
        """The last entry's term, 0 if it is not known (a snapshot's), and its index."""
        return self.entries.get(self.last, 0), self.last

    def truncate(self, first_removed: Index) -> None:
        """Removes entries from `first_removed` on."""
        while self.last >= first_removed and self.last in self.entries:
            del self.entries[self.last]
            self.last -= 1

    def append(self, index: Index, term: Term) -> None:
        """An entry record was written: it replaces what follows; a gap starts the log anew."""
        if index <= self.last:
            self.truncate(index)
        if index != self.last + 1:
            self.entries.clear()
        self.entries[index] = term
        self.last = index


class DurableNode:
    """One node's disk."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._shards: dict[Shard, DurableShard] = {}
        self._in_flight: Sequence[Record] = ()
        """What is being written: after a crash it may be there or not."""

    def shard(self, shard: Shard) -> DurableShard:
        """The shard's model."""
        return self._shards.setdefault(shard, DurableShard())

    def on_write(self, records: Sequence[Record]) -> None:
        """`Log.write` begins."""
        self._in_flight = records

    def on_written(self, records: Sequence[Record]) -> None:
        """`Log.write` has returned."""
        self._in_flight = ()
        for record in records:
            if type(record) is EntryRecord:
                if record.kind:
                    self.shard(record[0]).append(record[1], record[2])
            elif type(record) is HardStateRecord:
                shard = self.shard(record.shard)
                shard.term, shard.vote = record.term, record.vote
            elif type(record) is EventualRecord:
                write = replication_pb2.EventualWrite.FromString(record.data)
                held = self.shard(record.shard).eventual.setdefault(Origin(write.node, write.incarnation), {})
                held[write.sequence] = None

    def on_replaced(self, shard: Shard) -> None:
        """A snapshot replaced the store's rows: entries stay only if they continue it."""
        position, model = StateMachine.position(self._store.get(shard, META)), self.shard(shard)
        if model.entries.get(position.index) != position.term:
            model.entries.clear()
            model.last = position.index

    def flushed(self, shard: Shard) -> Index:
        """The store's position."""
        return StateMachine.position(self._store.get(shard, META)).index

    def holds(self, shard: Shard, index: Index, term: Term | None) -> bool:
        """Whether the entry, or a state behind it, is on the disk. `term` None: whatever its term."""
        if self.flushed(shard) >= index:
            return True
        found = self.shard(shard).entries.get(index)
        return found is not None and term in (None, found)

    def check_start(self, replica: Replica) -> list[str]:
        """What a node that has just recovered lacks; then the model follows what was found."""
        model, raft, machine = self.shard(replica.shard), replica.raft, replica.machine
        missing: list[str] = []
        if (raft.term, raft.vote) != (model.term, model.vote) and raft.term <= model.term:
            missing.append(f"term {model.term} with a vote for {model.vote!r} became term {raft.term}, vote {raft.vote!r}")
        if machine.applied < self.flushed(replica.shard):
            missing.append(f"applied is {machine.applied}, the store holds {self.flushed(replica.shard)}")
        for index in range(machine.applied + 1, min(model.last + 1, self._replaced_from(replica))):
            wanted = model.entries.get(index)
            if wanted is not None and raft.log.term(index) != wanted:
                missing.append(f"entry {index} of term {wanted} became term {raft.log.term(index)}")
        held = {(w.node, w.incarnation, w.sequence) for w in replica.holder.writes()}
        for origin, sequences in model.eventual.items():
            placed = machine.sequenced.get(origin, 0)
            for sequence in sequences:
                if sequence > placed and (*origin, sequence) not in held:
                    missing.append(f"eventual write {origin} {sequence} is lost (its watermark is {placed})")
        self._follow(replica)
        return missing

    def _replaced_from(self, replica: Replica) -> Index:
        """Where the write that was under way when the node died has replaced entries; behind all, if it is not there."""
        new = [r for r in self._in_flight if type(r) is EntryRecord and r.shard == replica.shard and r.kind]
        arrived = all(replica.raft.log.term(r.index) == r.term for r in new)
        return new[0].index if new and arrived else replica.raft.log.last_index + self.shard(replica.shard).last + 1

    def _follow(self, replica: Replica) -> None:
        model, raft = DurableShard(), replica.raft
        model.term, model.vote, model.last = raft.term, raft.vote, raft.log.last_index
        for index in range(raft.log.offset + 1, raft.log.last_index + 1):
            model.entries[index] = raft.log.term(index) or 0
        for write in replica.holder.writes():
            model.eventual.setdefault(Origin(write.node, write.incarnation), {})[write.sequence] = None
        self._shards[replica.shard] = model
