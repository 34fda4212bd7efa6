"""What one write of the log will make durable, and what may be said afterwards.

When the disk has no room for entries it still takes terms, votes and what the node remembers of itself (the log keeps a
reserve for them): `set_aside` takes a batch apart, so that a full disk stops writes and not elections or clocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kvapi.v1 import election_pb2
from kvnode.protocol.ready import Answer, DurableMark, Reply
from kvnode.shard.replica import Replica
from kvnode.storage.records import EntryRecord, EventualRecord, Record
from kvnode.types import Index, Shard


class LogBatch:
    """Records in order, and who waits for them."""

    __slots__ = ("accepted", "answers", "marks", "records", "tokens")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.marks: list[tuple[Replica, DurableMark]] = []
        self.answers: list[Answer] = []
        self.accepted: list[Reply] = []
        self.tokens: list[tuple[Record, Any]] = []
        """Of single records: who waits for each."""

    def ends(self) -> Iterator[tuple[Shard, Index, int]]:
        """Of each shard: its last entry's index, and the last sequence of this node's own eventual writes; 0 for none."""
        for replica, mark in self.marks:
            own = 0
            for node, incarnation, sequence in mark.eventual:
                if node == replica.me.node and incarnation == replica.me.incarnation:
                    own = max(own, sequence)
            yield replica.shard, mark.index, own

    def set_aside(self, later: LogBatch) -> LogBatch:
        """What of this batch needs no room for entries; the rest goes behind what `later` has.

        An answer of a shard whose entries wait must wait with them (DESIGN section 12.1), except a vote: it promises a term
        and nothing about entries.
        """
        now = LogBatch()
        for record in self.records:
            (later if _is_large(record) else now).records.append(record)
        for replica, mark in self.marks:
            if mark.hard_term:
                now.marks.append((replica, DurableMark(0, 0, mark.hard_term, ())))
            if mark.index or mark.eventual:
                later.marks.append((replica, mark._replace(hard_term=0)))
        waiting = dict.fromkeys(_shard_of(record) for record in later.records)
        for answer in self.answers:
            is_vote = isinstance(answer.message, election_pb2.RequestVoteResponse)
            (now if is_vote or answer.message.shard not in waiting else later).answers.append(answer)
        for record, token in self.tokens:
            (later if _is_large(record) else now).tokens.append((record, token))
        later.accepted.extend(self.accepted)
        return now


def _is_large(record: Record) -> bool:
    return isinstance(record, EntryRecord | EventualRecord)


def _shard_of(record: Record) -> Shard:
    return getattr(record, "shard", -1)
