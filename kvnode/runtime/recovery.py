"""From disk to memory: what the log and the store say together, when a node starts.

Owns the rules by which a shard's log and its flushed state fit (DESIGN section 5). Never writes.

The store holds everything up to the flushed index S, term T. The log's records are replayed in order, a later record for an
index replacing what follows it (Raft). Then, for each shard: if the log has entry S with term T, the log continues the
store; if it ends before S, or has S with another term, a snapshot was installed after those entries were written and they
are void; if it begins behind S + 1, something is missing and the shard must not serve.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from kvapi.v1 import replication_pb2
from kvnode.errors import RESTORE, Corrupt, WrongCluster
from kvnode.protocol.raft.log import RaftLog
from kvnode.shard.rows import readable
from kvnode.storage.records import NODE_KINDS_KEPT, EntryRecord, EventualRecord, HardStateRecord, NodeRecord, Record
from kvnode.types import Entry, HardState, Hlc, Index, Shard, Term

IDENTITY_RECORD, CLOCK_RECORD, PEERS_RECORD, ALIVE_RECORD = 1, 2, 3, 4
"""Kinds of node records of which the latest counts. ALIVE: that the node runs, and when, in Unix milliseconds."""
EVENT_RECORD, NODE_EVENT_RECORD, LEADERSHIP_RECORD = 16, 17, 18
"""Kinds of which all count: `runtime.journal`'s. EVENT: of the failure detector, without numbers, by earlier releases."""
SNAPSHOT_MARK = int(replication_pb2.ENTRY_KIND_UNSPECIFIED)
"""Kind of the log record that a snapshot's installation leaves: an entry's place, (index, term), without the entry."""


def clock_record(bound: Hlc) -> NodeRecord:
    """That every stamp so far is below `bound`: where the clock goes on after a restart."""
    return NodeRecord(CLOCK_RECORD, str(bound).encode())


class Identity(NamedTuple):
    """Whose data directory this is."""

    cluster_id: str
    node: str
    uid: str
    incarnation: int
    shards: int

    def expect(self, cluster_id: str, node: str, shards: int, where: str) -> None:
        """Raises `WrongCluster` where the configuration speaks of somebody else than the data directory `where`."""
        for what, stored, wanted in (
            ("cluster", self.cluster_id, cluster_id),
            ("node", self.node, node),
            ("number of shards", self.shards, shards),
        ):
            if stored != wanted:
                raise WrongCluster(
                    f"{where} is of {what} {stored}, the configuration says {wanted}: "
                    "use another data directory, or correct the configuration"
                )

    def encode(self) -> bytes:
        """As stored."""
        return json.dumps(self._asdict()).encode()

    @classmethod
    def decode(cls, data: bytes) -> Identity:
        """Raises `Corrupt` for what is no identity."""
        try:
            fields = json.loads(data)
            fields.pop("format_version", None)  # Earlier releases had it here, too; it was always 1.
            return cls(**fields)
        except (AttributeError, TypeError, ValueError, RecursionError) as error:
            raise Corrupt(f"the data directory's identity cannot be read: {error}") from error


@dataclass(slots=True)
class ShardRecovery:
    """What the log says of one shard."""

    entries: list[Entry] = field(default_factory=list)
    hard_state: HardState = HardState()
    eventual: list[replication_pb2.EventualWrite] = field(default_factory=list)

    def on_entry(self, entry: Entry) -> None:
        """A later record for an index replaces it and what follows; a gap means that a snapshot came between.

        A snapshot's mark voids what was before it, even where the indexes go on without a gap: entries that the snapshot
        contradicted must neither be offered to followers nor decide whether the log continues the store. A snapshot that
        the log continues leaves no mark: what follows it may be acknowledged already (`Replica.log_continues`).
        """
        entries = self.entries
        if entry.kind == SNAPSHOT_MARK:
            entries.clear()
        elif entries:
            position = entry.index - entries[0].index
            if position < 0 or position > len(entries):
                entries.clear()
            else:
                del entries[position:]
        entries.append(entry)

    def log(self, shard: Shard, flushed: Index, flushed_term: Term, entries_retained: int) -> RaftLog:
        """The shard's log over a store flushed up to (flushed, flushed_term)."""
        entries = self.entries
        if not entries or entries[-1].index < flushed:
            return RaftLog(flushed, flushed_term)
        first = entries[0].index
        if first > flushed + 1:
            raise Corrupt(
                f"shard {shard}: the store ends at index {flushed}, the log begins at {first}: entries between are missing; "
                + RESTORE,
                shard=shard,
            )
        if first == flushed + 1:
            return RaftLog(flushed, flushed_term, entries)
        if entries[flushed - first].term != flushed_term:
            return RaftLog(flushed, flushed_term)
        offset = max(first, flushed - entries_retained)
        return RaftLog(offset, entries[offset - first].term, entries[offset - first + 1 :])


@dataclass(slots=True)
class Recovered:
    """What the log says of the whole node."""

    identity: Identity | None = None
    clock_bound: Hlc = 0
    peer_uids: dict[str, str] = field(default_factory=dict)
    shards: dict[Shard, ShardRecovery] = field(default_factory=dict)
    alive_ms: int = 0
    """When the life before is known to have run still, Unix milliseconds; 0: there was none, or it was an earlier release's."""
    journals: dict[int, list[bytes]] = field(default_factory=dict)
    """The records of each journal, by kind."""
    records: int = 0

    def shard(self, shard: Shard) -> ShardRecovery:
        """What was found for a shard; empty for one that is new."""
        return self.shards.setdefault(shard, ShardRecovery())


@readable("a record of the log")
def replay(records: Iterable[Record]) -> Recovered:
    """Sorts the log's records by what they are about. Raises `Corrupt` from the log."""
    found = Recovered()
    shards = found.shards
    for record in records:
        found.records += 1
        if type(record) is EntryRecord:
            shard = shards.get(record[0])
            if shard is None:
                shard = found.shard(record[0])
            shard.on_entry(Entry(record[1], record[2], record[3], record[4]))
        elif type(record) is HardStateRecord:
            found.shard(record.shard).hard_state = HardState(record.term, record.vote, record.commit)
        elif type(record) is EventualRecord:
            found.shard(record.shard).eventual.append(replication_pb2.EventualWrite.FromString(record.data))
        elif type(record) is NodeRecord:
            _on_node_record(found, record)
    return found


def _on_node_record(found: Recovered, record: NodeRecord) -> None:
    if record.kind == IDENTITY_RECORD:
        found.identity = Identity.decode(record.data)
    elif record.kind == CLOCK_RECORD:
        found.clock_bound = int(record.data)  # (The latest: the last word of a life that stopped cleanly is lower.)
    elif record.kind == PEERS_RECORD:
        found.peer_uids = _peer_uids(record.data)
    elif record.kind == ALIVE_RECORD:
        found.alive_ms = int(record.data)
    elif record.kind >= NODE_KINDS_KEPT:
        found.journals.setdefault(record.kind, []).append(record.data)


def _peer_uids(data: bytes) -> dict[str, str]:
    uids = json.loads(data)
    if not isinstance(uids, dict) or not all(isinstance(uid, str) for uid in uids.values()):
        raise Corrupt(f"the record of the peers' data directories holds {data[:40]!r}, not their ids by node")
    return uids
