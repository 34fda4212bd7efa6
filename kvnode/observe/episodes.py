"""Traces of what is no request: elections, snapshots, disk stalls, and what became of eventual writes after their answer.

Owns their names and attributes. They are told by who does the work, through `watch`; nothing waits for them and nothing depends
on them. What belongs to a sampled request is linked to it; the rest is bounded a second, as are requests that nobody sampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import Link

from kvapi.v1 import cluster_pb2, kv_pb2, replication_pb2
from kvnode.observe.observer import Observer
from kvnode.observe.tracing import span_context_of
from kvnode.types import Index, NodeName, Seconds, Shard

if TYPE_CHECKING:
    from kvnode.protocol.raft.leadership import Leadership
    from kvnode.runtime.driver import Driver
    from kvnode.runtime.membership import Membership
    from kvnode.runtime.peers import PeerLink
    from kvnode.runtime.snapshots import Snapshots
    from kvnode.shard.superseded import Settled

_CAUSES = {
    cluster_pb2.LEADERSHIP_CAUSE_START: "the shard's first leader since its replicas started",
    cluster_pb2.LEADERSHIP_CAUSE_NODE_FAILED: "the leader before was FAILED",
    cluster_pb2.LEADERSHIP_CAUSE_TIMEOUT: "nothing was heard from the leader before",
    cluster_pb2.LEADERSHIP_CAUSE_TRANSFER: "the leader before handed it over",
}


class Episodes:
    """Of one node."""

    def __init__(self, me: NodeName, observer: Observer) -> None:
        self._me, self._observer = me, observer
        self._recorder, self._spans = observer.recorder, observer.spans

    def watch(self, driver: Driver, membership: Membership, snapshots: Snapshots, links: Iterable[PeerLink]) -> None:
        """Hears of what these do."""
        self._loop, self._replicas = driver.loop, driver.replicas
        self._recovered = {shard: replica.raft.log.last_index for shard, replica in driver.replicas.items()}
        """Entries up to here may be applied for the second time: the life before told of them."""
        driver.on_settled, driver.on_disk_moves_again = self.on_settled, self.on_disk_moves_again
        membership.on_leadership = self.on_leadership
        snapshots.on_sent, snapshots.on_installed = self.on_snapshot_sent, self.on_snapshot_installed
        for link in links:
            link.on_replicated = self.on_replicated

    def _ended(self, name: str, seconds: Seconds, attributes: dict[str, Any], *, failed: bool = False) -> None:
        """Something took `seconds`, until now."""
        now = self._observer.clock()
        self._recorder.episode(name, now - max(seconds, 0.0), now, attributes, failed=failed)

    # ---- leaderships, disks, snapshots -------------------------------------------------------------------------------

    def on_leadership(self, shard: Shard, leadership: Leadership) -> None:
        """This node leads a shard; the trace is the time in which nobody could serve it."""
        attributes = {
            "kvnode.shard": shard,
            "kvnode.term": leadership.term,
            "kvnode.leader": self._me,
            "kvnode.leader.previous": leadership.previous,
            "kvnode.cause": _CAUSES.get(leadership.cause, "not known"),
        }
        ago, since = self._loop.time() - leadership.serves_since, leadership.leaderless_since
        end = self._observer.clock() - max(ago, 0.0)
        self._recorder.episode("kvnode.election", end - max(leadership.serves_since - since, 0.0), end, attributes)

    def on_disk_moves_again(self, seconds: Seconds) -> None:
        """A write of the log hung for so long that this node's leaders stepped down."""
        self._ended("kvnode.disk_stall", seconds, {"kvnode.cause": "a write of the log did not end"}, failed=True)

    def on_snapshot_sent(self, shard: Shard, to: NodeName, index: Index, success: bool, seconds: Seconds) -> None:
        """A follower's next entry was no longer in this leader's log."""
        attributes = {
            "kvnode.shard": shard,
            "kvnode.node": to,
            "kvnode.index": index,
            "kvnode.cause": f"{to} needs entries that are no longer in the log",
        }
        self._ended("kvnode.snapshot.send", seconds, attributes, failed=not success)

    def on_snapshot_installed(self, shard: Shard, sender: NodeName, index: Index, seconds: Seconds) -> None:
        """The shard's rows here were replaced by a leader's."""
        attributes = {
            "kvnode.shard": shard,
            "kvnode.node": sender,
            "kvnode.index": index,
            "kvnode.cause": "this replica was too far behind",
        }
        self._ended("kvnode.snapshot.install", seconds, attributes)

    # ---- eventual writes ---------------------------------------------------------------------------------------------

    def on_replicated(self, peer: NodeName, writes: Sequence[replication_pb2.EventualWrite], sent: float) -> None:
        """A peer holds them too; `sent`: when they left, in the observer's clock."""
        links = [link for write in writes if (link := _link(write.traceparent))]
        if links:
            attributes = {"kvnode.node": peer, "kvnode.batch.records": len(writes)}
            self._spans.episode("kvnode.eventual.replicate", sent, self._observer.clock(), attributes, links)

    def on_settled(self, shard: Shard, settled: Sequence[Settled]) -> None:
        """Eventual writes have got their place here: in the log's order, with an effect or without."""
        for one in settled:
            link = _link(one.write.traceparent)
            is_superseded = one.superseded is not None
            if one.index <= self._recovered[shard]:
                continue
            if link is None and not (is_superseded and one.write.node == self._me and self._recorder.allows()):
                continue
            now = self._observer.clock()
            attributes: dict[str, Any] = {
                "kvnode.shard": shard,
                "kvnode.node": one.write.node,
                "kvnode.revision": one.index,
                "kvnode.outcome": "superseded" if is_superseded else "applied",
            }
            if one.superseded is not None:
                attributes["kvnode.kept"] = "superseded"
                attributes["kvnode.cause"] = kv_pb2.SupersededReason.Name(one.superseded.reason)
                attributes["kvnode.superseded.by"] = one.superseded.by
            links = [link] if link else []
            write = self._observer.times.write_of(shard, one.index)
            if write is not None and self._replicas[shard].is_leader:
                self._spans.episode("kvnode.eventual.sequence", write.submitted, now, attributes, links)
            # (By the clocks of two nodes: never negative, and off by what these differ.)
            age = max(self._observer.wall_ms() - (one.write.hlc >> 16), 0) / 1000
            self._spans.episode("kvnode.eventual.apply", now - age, now, attributes, links)


def _link(traceparent: str) -> Link | None:
    span = span_context_of(traceparent) if traceparent else None
    return Link(span) if span is not None else None
