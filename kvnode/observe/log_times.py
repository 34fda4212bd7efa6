"""When the shards' logs did what: writes and syncs, commits, applies, and followers' answers, of the latest moments.

Owns a short memory that turns (shard, index) into the times of an entry's way. The driver and the peers' links tell it what
happens, once for each batch and not for each request; requests ask it when they have ended (`Timeline.proposed`). Never decides
anything: a moment that is forgotten only makes a timeline coarser. Invariant: of each kind and shard the indexes grow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from kvapi.v1 import replication_pb2
from kvclient.histogram import Histogram
from kvnode.observe.stages import Clock
from kvnode.types import Index, NodeName, Shard

MOMENTS_KEPT = 256
"""Of each kind and shard. A request asks about its entry at most some milliseconds after it was applied."""


class LogWrite:
    """One batch of the log: a group commit."""

    __slots__ = ("began", "done", "fsync_s", "number", "records", "submitted", "write_s")

    def __init__(self, number: int, records: int, submitted: float) -> None:
        self.number, self.records, self.submitted = number, records, submitted
        self.began = 0.0
        """When the log's thread took it up; 0: not yet."""
        self.write_s = self.fsync_s = 0.0
        """The whole write on the log's thread, and the sync in it."""
        self.done = 0.0
        """When the event loop heard that it is durable; 0: not yet."""


class Moment(NamedTuple):
    """Something reached an index."""

    index: Index  # type: ignore[assignment]
    at: float
    by: NodeName = ""
    """Whose word completed the quorum."""


class FollowerAppend(NamedTuple):
    """A follower holds everything up to an index."""

    index: Index  # type: ignore[assignment]
    sent: float
    answered: float
    timing: replication_pb2.AppendTiming


class _Memory:
    """Growing numbers, each with what belongs to it; the oldest are forgotten."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: deque[tuple[int, object]] = deque(maxlen=MOMENTS_KEPT)

    def add(self, number: int, what: object, *, again: bool = False) -> None:
        """`again`: said about the last number once more, it replaces what was said first."""
        last = self._kept[-1][0] if self._kept else 0
        if number == last:
            if again:
                self._kept[-1] = (number, what)
            return
        if number < last:
            # A new leader's log may be shorter than the old one's: what was remembered is another history.
            self._kept.clear()
        self._kept.append((number, what))

    def covering(self, number: int) -> object | None:
        """What belongs to the least number that is not below `number`; None if that may be forgotten, or is still to come."""
        found = None
        for kept, what in reversed(self._kept):
            if kept < number:
                return found
            found = what
        # (The first one kept may cover it, or one that is forgotten.)
        return found if len(self._kept) < MOMENTS_KEPT else None


class LogTimes:
    """Of one node."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.process = ""
        """Node and incarnation, as "n1/3"."""
        self._submitted = 0
        self._writes: dict[Shard, _Memory] = {}
        self._eventual_writes: dict[Shard, _Memory] = {}
        self._commits: dict[Shard, _Memory] = {}
        self._committed: dict[Shard, Index] = {}
        self._applies: dict[Shard, _Memory] = {}
        self._appends: dict[tuple[Shard, NodeName], _Memory] = {}
        self.writes = self.records = 0
        """Batches, and the records in them, that are durable."""
        self.write_durations, self.fsync_durations, self.batch_sizes = Histogram(), Histogram(), Histogram()
        """Of batches: microseconds, microseconds, records."""

    def batch_id(self, write: LogWrite) -> str:
        """The name of a batch, unique in a cluster: "node/incarnation/number"."""
        return f"{self.process}/{write.number}"

    # ---- what the driver and the links say ---------------------------------------------------------------------------

    def on_submit(self, records: int, ends: Iterable[tuple[Shard, Index, int]]) -> LogWrite:
        """A batch goes to the log; `ends`: of each shard in it the last index, and the last of this node's eventual writes."""
        self._submitted += 1
        write = LogWrite(self._submitted, records, self.clock())
        for shard, index, sequence in ends:
            if index:
                _of(self._writes, shard).add(index, write, again=True)
            if sequence:
                _of(self._eventual_writes, shard).add(sequence, write, again=True)
        return write

    def on_written(self, write: LogWrite) -> None:
        """It is durable."""
        write.done = self.clock()
        self.writes += 1
        self.records += write.records
        self.write_durations.record(int(write.write_s * 1e6))
        self.fsync_durations.record(int(write.fsync_s * 1e6))
        self.batch_sizes.record(write.records)

    def on_commit(self, shard: Shard, index: Index, by: NodeName) -> None:
        """The commit index may have grown; `by`: the node whose word was the last one needed."""
        known = self._committed.get(shard, 0)
        if index > known:
            self._committed[shard] = index
            _of(self._commits, shard).add(index, Moment(index, self.clock(), by))

    def on_apply(self, shard: Shard, index: Index) -> None:
        """Everything up to `index` is applied."""
        _of(self._applies, shard).add(index, Moment(index, self.clock()))

    def on_append(self, shard: Shard, peer: NodeName, index: Index, sent: float, timing: replication_pb2.AppendTiming) -> None:
        """A follower says that it holds everything up to `index`."""
        memory = self._appends.get((shard, peer))
        if memory is None:
            memory = self._appends[shard, peer] = _Memory()
        memory.add(index, FollowerAppend(index, sent, self.clock(), timing))

    # ---- what requests ask -------------------------------------------------------------------------------------------

    def write_of(self, shard: Shard, index: Index) -> LogWrite | None:
        """The batch that an entry went to the log with."""
        found = self._writes[shard].covering(index) if shard in self._writes else None
        return found if isinstance(found, LogWrite) else None

    def eventual_write_of(self, shard: Shard, sequence: int) -> LogWrite | None:
        """The batch that an eventual write of this node went to the log with."""
        found = self._eventual_writes[shard].covering(sequence) if shard in self._eventual_writes else None
        return found if isinstance(found, LogWrite) else None

    def commit_of(self, shard: Shard, index: Index) -> Moment | None:
        """When an entry was committed, and by whom; None while it is not, as far as is remembered."""
        found = self._commits[shard].covering(index) if shard in self._commits else None
        return found if isinstance(found, Moment) else None

    def applied_at(self, shard: Shard, index: Index) -> float | None:
        """When an entry was applied here."""
        found = self._applies[shard].covering(index) if shard in self._applies else None
        return found.at if isinstance(found, Moment) else None

    def appends_of(self, shard: Shard, index: Index) -> dict[NodeName, FollowerAppend]:
        """What is known of followers' appends of an entry, by node."""
        found = {}
        for (of, peer), memory in self._appends.items():
            append = memory.covering(index) if of == shard else None
            if isinstance(append, FollowerAppend):
                found[peer] = append
        return found


def _of(memories: dict[Shard, _Memory], shard: Shard) -> _Memory:
    memory = memories.get(shard)
    if memory is None:
        memory = memories[shard] = _Memory()
    return memory
