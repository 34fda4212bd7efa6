"""The eventual writes that one replica of a shard holds and that have no place in the log yet.

Owns acceptance (numbering the replica's own writes), what other replicas sent, what each peer is known to hold, and which
writes the leader puts into the log next. Never decides whether a write takes effect: that is `verdict`, at apply.

Invariants: of one origin, everything up to `held` is either here or has a place in the log; a write is dropped only when
the *local* apply of its log entry says so (DESIGN section 9.3); the leader proposes one origin's writes in order and
without gaps, so that a watermark is enough to apply each exactly once (section 12.9).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from kvapi.v1 import replication_pb2
from kvnode.types import Hlc, Index, NodeName, Origin, Seconds, Shard

EventualWrite = replication_pb2.EventualWrite


@dataclass(slots=True)
class _Queue:
    """One origin's held writes, oldest first."""

    held: int = 0
    """Everything up to this sequence is held here, or has a place in the log, maybe only by a peer's word."""
    proven: int = 0
    """The same without anybody's word: held here, or applied here. What peers may count on."""
    durable: int = 0
    """The same, on this node's disk."""
    proposed: int = 0
    """Leader: everything up to this has been put into the log in this term."""
    writes: deque[tuple[Seconds, EventualWrite]] = field(default_factory=deque)


class Holder:
    """All held writes of a shard, by origin and by key."""

    def __init__(self, shard: Shard, me: Origin, held_max: int, relay_after: Seconds) -> None:
        """`held_max` writes at most; others' writes are passed on after `relay_after` without a place in the log."""
        self.shard, self.me, self.held_max, self.relay_after = shard, me, held_max, relay_after
        self._queues: dict[Origin, _Queue] = {}
        self._by_key: dict[bytes, list[EventualWrite]] = {}
        self._peer_holds: dict[tuple[NodeName, Origin], int] = {}
        self.size = 0
        self._turn = 0
        self.ack_wanted = 0
        """A caller waits until several replicas hold this node's own writes up to this sequence."""

    @property
    def is_full(self) -> bool:
        """Whether no further write can be held."""
        return self.size >= self.held_max

    def accept(self, key: bytes, value: bytes | None, hlc: Hlc, base: Index, now: Seconds) -> EventualWrite:
        """Numbers a write of this replica's own clients and holds it; `value` None deletes."""
        queue = self._queue(self.me)
        write = EventualWrite(
            node=self.me.node,
            incarnation=self.me.incarnation,
            sequence=queue.held + 1,
            hlc=hlc,
            base=base,
            key=key,
            value=value or b"",
            deletion=value is None,
        )
        self._hold(queue, write, now)
        return write

    def on_batch(self, batch: replication_pb2.EventualBatch, sequenced: int, now: Seconds) -> list[EventualWrite]:
        """Holds what is new of a peer's batch and answers it, for the disk. A gap, or a full replica, ends it early.

        `sequenced` is this replica's own watermark for the origin: what has a place in the log is not held again.
        """
        queue = self._queue(Origin(batch.node, batch.incarnation))
        self._prove(queue, sequenced)
        settled = max(sequenced, batch.sequenced)
        queue.held, queue.durable = max(queue.held, settled), max(queue.durable, settled)
        new = []
        for write in batch.writes:
            if write.sequence <= queue.held:
                continue
            if write.sequence > queue.held + 1 or self.is_full:
                break
            copy = EventualWrite()
            copy.CopyFrom(write)
            self._hold(queue, copy, now)
            new.append(copy)
        return new

    def restore(self, write: EventualWrite, sequenced: int, now: Seconds) -> None:
        """Holds a write that was found on disk, unless it has its place in the log."""
        queue = self._queue(Origin(write.node, write.incarnation))
        queue.held, queue.proven = max(queue.held, sequenced), max(queue.proven, sequenced)
        # (Writes come in each origin's order: see `Replica.restore_held`.)
        if write.sequence > queue.held:
            self._hold(queue, write, now)
        queue.durable = queue.held

    def _queue(self, origin: Origin) -> _Queue:
        return self._queues.setdefault(origin, _Queue())

    def _hold(self, queue: _Queue, write: EventualWrite, now: Seconds) -> None:
        if queue.proven + 1 == write.sequence:
            queue.proven = write.sequence
        queue.held = write.sequence
        queue.writes.append((now, write))
        self._by_key.setdefault(write.key, []).append(write)
        self.size += 1

    def _prove(self, queue: _Queue, applied: int) -> None:
        """The origin's writes up to `applied` are applied here; what is held without a gap behind them is proven too."""
        queue.proven = max(queue.proven, applied)
        if queue.writes and queue.writes[0][1].sequence == queue.proven + 1:
            for _, write in queue.writes:
                if write.sequence != queue.proven + 1:
                    break
                queue.proven = write.sequence

    def on_durable(self, origin: Origin, sequence: int) -> None:
        """Everything of the origin up to `sequence` is on this node's disk."""
        queue = self._queue(origin)
        queue.durable = max(queue.durable, sequence)

    def shown(self, origin: Origin) -> int:
        """Everything of the origin up to this is in what this replica shows: durably held, or applied."""
        queue = self._queues.get(origin)
        return min(queue.proven, queue.durable) if queue else 0

    def held(self, origin: Origin) -> int:
        """Everything of the origin up to this is held or applied here."""
        queue = self._queues.get(origin)
        return queue.proven if queue else 0

    def on_sequenced(self, origin: Origin, sequence: int) -> None:
        """The local state machine applied the origin's writes up to `sequence`: they are history now."""
        queue = self._queue(origin)
        while queue.writes and queue.writes[0][1].sequence <= sequence:
            _, write = queue.writes.popleft()
            self.size -= 1
            same_key = self._by_key[write.key]
            same_key.remove(write)
            if not same_key:
                del self._by_key[write.key]
        queue.held, queue.durable = max(queue.held, sequence), max(queue.durable, sequence)
        queue.proposed = max(queue.proposed, sequence)
        if queue.proven < queue.held:
            self._prove(queue, sequence)

    def held_at_key(self, key: bytes) -> list[EventualWrite]:
        """Held writes to one key, those not durable yet too."""
        return self._by_key.get(key, [])

    def at_key(self, key: bytes) -> list[EventualWrite]:
        """Held writes to one key that may be shown: a write that this node could still forget must be seen by nobody."""
        held = self._by_key.get(key)
        return [w for w in held if w.sequence <= self._queues[Origin(w.node, w.incarnation)].durable] if held else []

    def keys_held(self) -> Iterator[bytes]:
        """Keys that have held writes, in no useful order."""
        return iter(self._by_key)

    def writes(self) -> Iterator[EventualWrite]:
        """All held writes, each origin's in order."""
        for queue in self._queues.values():
            for _, write in queue.writes:
                yield write

    def positions(self) -> dict[Origin, int]:
        """Of each origin with held writes the last one that may be shown: who saw all of them saw these."""
        return {
            origin: min(queue.writes[-1][1].sequence, queue.durable) for origin, queue in self._queues.items() if queue.writes
        }

    def own_floor(self, applied: Index) -> Index:
        """No write that this node accepted, in any incarnation, and that still waits has a base below this."""
        bases = (q.writes[0][1].base for origin, q in self._queues.items() if origin.node == self.me.node and q.writes)
        return min(bases, default=applied)

    # ---- to peers ---------------------------------------------------------------------------------------------------

    def batches_for(
        self, peer: NodeName, writes_max: int, size_bytes_max: int, now: Seconds
    ) -> list[replication_pb2.EventualBatch]:
        """What the peer may lack: this node's own durable writes at once, others' when they have waited for too long.

        At most `writes_max` writes; the last one may go beyond `size_bytes_max`.
        """
        batches = []
        for origin, queue in self._queues.items():
            if writes_max <= 0 or size_bytes_max <= 0 or origin.node == peer:
                continue
            known = self._peer_holds.get((peer, origin))
            if not queue.writes:
                if origin == self.me and self.ack_wanted > (known or 0):
                    batches.append(
                        replication_pb2.EventualBatch(
                            shard=self.shard, node=origin.node, incarnation=origin.incarnation, sequenced=queue.held
                        )
                    )
                continue
            relayed = origin.node != self.me.node
            if relayed and now < queue.writes[0][0] + self.relay_after:
                continue
            if known is not None and known >= queue.durable:
                continue
            batch = replication_pb2.EventualBatch(
                shard=self.shard, node=origin.node, incarnation=origin.incarnation, sequenced=queue.writes[0][1].sequence - 1
            )
            if known is not None or not relayed:
                for _, write in queue.writes:
                    if (known or 0) < write.sequence <= queue.durable:
                        batch.writes.append(write)
                        writes_max, size_bytes_max = writes_max - 1, size_bytes_max - len(write.key) - len(write.value) - 64
                        if writes_max <= 0 or size_bytes_max <= 0:
                            break
                if not batch.writes:
                    continue
            batches.append(batch)
        return batches

    def on_peer_holds(self, peer: NodeName, origin: Origin, held: int) -> bool:
        """A peer said what it holds; its word counts, also when it is less than before (it may have lost its disk). Answers
        whether it holds more."""
        known = self._peer_holds.get((peer, origin), -1)
        self._peer_holds[peer, origin] = held
        return held > known

    def replicas_holding(self, sequence: int) -> int:
        """How many replicas hold this node's own write `sequence` durably, this one included once it does."""
        peers = sum(1 for (_, origin), held in self._peer_holds.items() if origin == self.me and held >= sequence)
        return peers + (self._queue(self.me).durable >= sequence)

    def relay_deadline(self, now: Seconds) -> Seconds | None:
        """When the oldest of the others' writes has waited for long enough to be passed on; None without any."""
        waiting = [q.writes[0][0] + self.relay_after for o, q in self._queues.items() if q.writes and o.node != self.me.node]
        return max(min(waiting), now) if waiting else None

    # ---- the leader -------------------------------------------------------------------------------------------------

    def on_become_leader(self) -> None:
        """Starts from what the log holds: call when every entry of earlier terms has been applied."""
        for queue in self._queues.values():
            queue.proposed = 0

    def next_to_sequence(self, sequenced: dict[Origin, int], writes_max: int, size_bytes_max: int) -> list[EventualWrite]:
        """The next writes for the log, each origin's in order without gaps, each key at most once.

        A key comes once an entry, so that a revision names one version of a key.
        """
        chosen: list[EventualWrite] = []
        keys: dict[bytes, None] = {}
        size = 0
        # Another origin comes first each time: one that always fills the entry must not starve the others.
        origins = list(self._queues)
        begin = self._turn % max(1, len(origins))
        self._turn = begin + 1
        for origin in origins[begin:] + origins[:begin]:
            queue = self._queues[origin]
            queue.proposed = max(queue.proposed, sequenced.get(origin, 0))
            for _, write in queue.writes:
                if write.sequence <= queue.proposed:
                    continue
                if write.sequence != queue.proposed + 1 or write.key in keys:
                    break
                size += len(write.key) + len(write.value) + 64
                if chosen and (len(chosen) >= writes_max or size > size_bytes_max):
                    return chosen
                keys[write.key] = None
                chosen.append(write)
                queue.proposed = write.sequence
        return chosen
