"""Peers' requests at the door: what fuzzing found to halt nodes, each distilled, is refused with the field's name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kvapi.v1 import failure_detection_pb2, kv_pb2, message_pb2, replication_pb2, two_phase_commit_pb2
from kvnode.api.check_peer import PeerChecks
from kvnode.errors import InvalidRequest
from kvnode.routing.shard_map import make_shard_map
from tests.unit.protocol.raft.test_door import append, follower

MEMBERS = {"n1": "a:1", "n2": "a:2", "n3": "a:3"}
MAP = make_shard_map(MEMBERS, 2, 3)
KEY, FOREIGN = (next(key for n in range(99) if MAP.shard_of(key := b"%d" % n) == shard) for shard in (0, 1))
U64 = 2**64 - 1


def checks() -> PeerChecks:
    """Of n1, which holds shard 0 alone."""
    replica: Any = SimpleNamespace(raft=follower(leader="n3"))
    return PeerChecks("n1", MAP, {0: replica})


def eventual(batch: dict[str, Any] | None = None, **write: Any) -> replication_pb2.ReplicateEventualRequest:
    """A write of n2 to shard 0, with other fields."""
    fields = {"node": "n2", "incarnation": 1, "sequence": 1, "key": KEY, "hlc": 5, **write}
    one = {"shard": 0, "node": "n2", "incarnation": 1, **(batch or {})}
    return replication_pb2.ReplicateEventualRequest(batches=[{**one, "writes": [replication_pb2.EventualWrite(**fields)]}])


def prepare(key: bytes = KEY, **fields: Any) -> two_phase_commit_pb2.PrepareRequest:
    """A put of a key, with other fields."""
    part = two_phase_commit_pb2.TransactionPart(then=[kv_pb2.BatchOperation(put=kv_pb2.PutRequest(key=key))])
    transaction = two_phase_commit_pb2.TransactionId(start=1, id=b"i" * 16)
    known = {"transaction": transaction, "participants": [0, 1], "anchor": 1, "part": part, **fields}
    return two_phase_commit_pb2.PrepareRequest(**known)


def of(sender: str, request: Any) -> Any:
    """The request in a peer's name."""
    request.message.CopyFrom(message_pb2.Message(from_node=sender))
    return request


REFUSED = {
    "batches[0].writes[0].key": [eventual(key=b""), eventual(key=b"k" * 401), eventual(key=FOREIGN)],
    "batches[0].node": [eventual({"node": "n1"}), eventual({"node": "x" * 300}), eventual({"node": ""})],
    "batches[0].writes[0].node": [eventual(node="n3"), eventual(incarnation=2)],
    "batches[0].writes[0].sequence": [eventual(sequence=0), eventual(sequence=U64), eventual(hlc=U64), eventual(base=U64)],
    "batches[0].sequenced": [eventual({"sequenced": U64})],
    "participants": [prepare(participants=[1]), prepare(participants=[0, 0, 1]), prepare(participants=[])],
    "transaction.start": [prepare(transaction=two_phase_commit_pb2.TransactionId(start=U64, id=b"i" * 16))],
    "part.then[0].put.key": [prepare(b""), prepare(b"k" * 2000)],
    "part.then[0].key": [prepare(FOREIGN)],
    "part.then[0]": [prepare(part=two_phase_commit_pb2.TransactionPart(then=[kv_pb2.BatchOperation()]))],
    "committed_at": [two_phase_commit_pb2.ResolveRequest(committed_at=U64)],
    "request.session": [two_phase_commit_pb2.DecideRequest(request=kv_pb2.RequestId(session=b"s" * 600, sequence=1))],
    "leads[0].term": [
        of("n2", failure_detection_pb2.HeartbeatRequest(leads=[{"shard": 0, "term": term}])) for term in (3, U64)
    ],
    "appends[0].term": [of("n2", replication_pb2.AppendRequest(appends=[append((3, 2))]))],
    "appends[0].entries": [of("n3", replication_pb2.AppendRequest(appends=[append((1, 1), 3)]))],
    "last_index": [of("n3", replication_pb2.InstallSnapshotRequest(term=3, last_index=U64, last_term=1))],
}


@pytest.mark.parametrize(("field", "request_"), [(field, one) for field, ones in REFUSED.items() for one in ones])
def test_peers_request_that_is_malformed_is_refused_with_its_field(field: str, request_: Any) -> None:
    """None of these may reach a log, or the state of a replica."""
    with pytest.raises(InvalidRequest) as refused:
        checks().request(request_)
    assert refused.value.field == field


@pytest.mark.parametrize("one", [eventual(), prepare(), of("n3", replication_pb2.AppendRequest(appends=[append((3, 2), 3)]))])
def test_peers_request_that_is_well_formed_is_taken(one: Any) -> None:
    """The same requests, as peers send them."""
    checks().request(one)


@pytest.mark.parametrize(
    "answer",
    [
        replication_pb2.AppendResponse(results=[{"shard": 7}]),
        replication_pb2.AppendResponse(results=[{"shard": 0, "term": U64}]),
        replication_pb2.ReplicateEventualResponse(held=[{"shard": 7}]),
        failure_detection_pb2.HeartbeatResponse(acks=[{"shard": 0, "term": U64}]),
    ],
)
def test_peers_answer_that_is_malformed_is_refused(answer: Any) -> None:
    """An answer about a shard that was not asked for, or of a term out of reach."""
    with pytest.raises(InvalidRequest):
        checks().answer(answer)
