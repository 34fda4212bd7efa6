"""Words that every room of the house uses."""

from __future__ import annotations

from typing import NamedTuple

Shard = int
"""A shard's number, from 0."""
Index = int
"""A place in a shard's log, from 1; 0 is before the first."""
Term = int
"""A Raft term, from 1; 0 is before the first."""
NodeName = str
"""A member's name."""
Seconds = float
"""A monotonic time or a duration."""
Hlc = int
"""A hybrid logical clock stamp: Unix milliseconds << 16 | counter."""


class Entry(NamedTuple):
    """One entry of a shard's log, in memory."""

    index: Index  # type: ignore[assignment]
    term: Term
    kind: int
    """`EntryKind` of replication.proto."""
    data: bytes
    """A serialized `Command`."""


class HardState(NamedTuple):
    """What Raft must remember before it answers (Ongaro 2014, figure 3.1: currentTerm, votedFor), and the commit index,
    which is only a hint that shortens recovery."""

    term: Term = 0
    vote: NodeName = ""
    commit: Index = 0


class Origin(NamedTuple):
    """Who accepted an eventual write: a node in one of its incarnations."""

    node: NodeName
    incarnation: int


class Txn(NamedTuple):
    """A transaction over several shards. Of two, the smaller is the older."""

    start: Hlc
    id: bytes

    def __str__(self) -> str:
        """Its public name, "start.id"."""
        return f"{self.start}.{self.id.hex()}"
