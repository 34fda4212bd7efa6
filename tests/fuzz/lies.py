"""Lies that no door can tell from the truth, and what is left of a message without them.

Peers are trusted not to lie about consensus (DESIGN section 3: they are members of the cluster, with the right cluster id, name
and data directory). A member that claims to be the elected leader of a new term, and sends entries or a commit index in that
name, *is* the leader as far as anybody can see: whoever believes it must adopt what it says. So does whoever hears of a
transaction's decision, or of a peer's eventual writes. `without_lies` takes from a forged message exactly that, and leaves
everything that a door must be able to judge: malformed, contradictory, absurd, stale, repeated, unsorted.

What is taken, of a message that the node would otherwise believe:
- an append in a term that is not over: its entries, and a commit index beyond what this node knows to be committed;
- a heartbeat: a commit index beyond what this node knows to be committed;
- eventual writes in the name of a node's present life, and watermarks above what is applied here;
- a decision to commit, or to abort, that no coordinator made: requests of two-phase commit keep their transaction only if it is
  one of the forger's own.
"""

from __future__ import annotations

from typing import Any

from kvapi.v1 import failure_detection_pb2, replication_pb2
from kvnode.node import Node
from kvnode.types import Origin


def without_lies(node: Node, request: Any) -> Any:
    """The request, less what `node` could not but believe. Changes it in place."""
    if isinstance(request, replication_pb2.AppendRequest):
        for append in request.appends:
            _tame_append(node, append)
    elif isinstance(request, failure_detection_pb2.HeartbeatRequest):
        for lead in request.leads:
            replica = node.replicas.get(lead.shard)
            if replica is not None:
                lead.commit = min(lead.commit, replica.raft.commit)
    elif isinstance(request, replication_pb2.ReplicateEventualRequest):
        for batch in request.batches:
            _tame_batch(node, batch)
    return request


def _tame_append(node: Node, append: replication_pb2.ShardAppend) -> None:
    replica = node.replicas.get(append.shard)
    if replica is None or append.term < replica.raft.term:
        return
    raft = replica.raft
    append.commit = min(append.commit, raft.commit)
    # Entries that this log has, or that contradict what is committed: the first are true, the second must be refused.
    first = append.previous_index + 1
    known = sum(1 for at, _ in enumerate(append.entries) if first + at <= raft.commit)
    del append.entries[known:]


def _tame_batch(node: Node, batch: replication_pb2.EventualBatch) -> None:
    replica = node.replicas.get(batch.shard)
    if replica is None:
        return
    origin = Origin(batch.node, batch.incarnation)
    batch.sequenced = min(batch.sequenced, replica.machine.sequenced.get(origin, 0))
    if batch.incarnation == 1:
        del batch.writes[:]
