"""Peers' requests, arbitrary and authentic: each is answered or refused, no node stops, and the cluster stays whole."""

from __future__ import annotations

from typing import Any

from google.protobuf import message_factory
from hypothesis import given
from hypothesis import strategies as st

from kvapi.v1 import (
    election_pb2,
    failure_detection_pb2,
    gossip_pb2,
    kv_pb2,
    message_pb2,
    replication_pb2,
    two_phase_commit_pb2,
)
from tests.fuzz.lies import without_lies
from tests.fuzz.messages import keys, messages, names, numbers_64
from tests.fuzz.profile import fuzz
from tests.fuzz.worlds import NODES, Cluster, in_a_cluster

FILES = (failure_detection_pb2, gossip_pb2, election_pb2, replication_pb2, two_phase_commit_pb2)
REQUESTS: list[Any] = [
    message_factory.GetMessageClass(method.input_type)
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.name != "InstallSnapshot"
]
"""Of every method of every peer service; snapshots come as a stream."""
requests = st.sampled_from(REQUESTS).flatmap(lambda kind: messages(kind, {"Message": st.just(message_pb2.Message())}))
small = st.sampled_from((0, 1, 1, 1, 2, 2, 3, 4, 5, 8))
terms = st.integers(0, 5).flatmap(lambda n: numbers_64 if n == 0 else small)
"""Mostly what the small cluster has by then."""
parts = messages(
    two_phase_commit_pb2.TransactionPart,
    {
        "consistency": st.just(0),
        "if_revision": st.just(0),
        "acks": st.just(0),
        "RequestId": st.just(kv_pb2.RequestId()),
        "key": keys,
    },
)
plausible = {
    "Message": st.just(message_pb2.Message()),
    "term": terms,
    "previous_index": terms,
    "previous_term": terms,
    "last_log_index": terms,
    "last_log_term": terms,
    "LogEntry.kind": st.just(1),
    "ShardAppend.shard": st.integers(0, 1),
    "ShardLead.shard": st.integers(0, 1),
    "EventualBatch.shard": st.integers(0, 1),
    "EventualBatch.node": st.sampled_from(NODES),
    "EventualWrite.node": st.sampled_from(NODES),
    "incarnation": st.sampled_from((0, 1, 2, 2, 2, 2**64 - 1)),
    "sequence": terms,
    "sequenced": small,
    "committed_at": terms,
    "hlc": terms,
    "TransactionId.id": st.sampled_from((b"i" * 16, b"j" * 16)),
    "TransactionId.start": terms,
    "TransactionPart": parts,
    "key": keys,
    "shard": st.integers(0, 1),
    "anchor": st.integers(0, 1),
}
HEAVY = ("Append", "ReplicateEventual", "Prepare", "Decide", "Resolve", "Heartbeat")
likely = st.sampled_from(
    [*REQUESTS, *(kind for kind in REQUESTS if kind.DESCRIPTOR.name.startswith(HEAVY) for _ in (1, 2))]
).flatmap(lambda kind: messages(kind, plausible))
"""Closer to the truth: it gets further inside."""
ways = st.tuples(st.sampled_from(NODES), st.sampled_from(NODES)).filter(lambda way: way[0] != way[1])


@given(sent=st.lists(st.tuples(ways, likely | likely | requests, st.sampled_from((0.0, 0.01, 1.0))), min_size=4, max_size=24))
@fuzz(12)
def test_peers_requests_that_are_arbitrary_stop_nobody(sent: list[tuple[tuple[str, str], Any, float]]) -> None:
    """Requests from members, with the right envelope and any content, are answered or refused; the cluster stays whole."""

    async def send(cluster: Cluster) -> None:
        for (sender, to), request, pause in sent:
            request.message.CopyFrom(cluster.envelope(sender, to))
            cluster.to_peer(to, without_lies(cluster.node(to), request))
            await cluster.world.sleep(pause)

    in_a_cluster(send)


envelopes = messages(
    message_pb2.Message,
    {
        "from_node": st.sampled_from(NODES) | names,
        "to_node": st.sampled_from(NODES) | names,
        "cluster_id": st.just("sim") | names,
        "from_uid": st.sampled_from(("", "n1-disk1", "n2-disk1", "n3-disk1")) | names,
        "protocol_version": st.just(2) | st.integers(0, 2**32 - 1),
    },
)


@given(sent=st.lists(st.tuples(st.sampled_from(NODES), envelopes, likely), min_size=1, max_size=12))
@fuzz(8)
def test_peers_requests_with_any_envelope_stop_nobody(sent: list[tuple[str, Any, Any]]) -> None:
    """Whoever a request says that it is from and for: strangers are refused, and nobody's place is taken by their word."""

    async def send(cluster: Cluster) -> None:
        for to, envelope, request in sent:
            request.message.CopyFrom(envelope)
            cluster.to_peer(to, without_lies(cluster.node(to), request))
            await cluster.world.sleep(0.01)

    in_a_cluster(send)


@given(seed=st.integers(0, 2**32 - 1))
@fuzz(2)
def test_cluster_with_nothing_forged_passes_its_own_demands(seed: int) -> None:
    """The plain cluster, with nothing sent, passes its own checks: they demand nothing impossible."""

    async def nothing(cluster: Cluster) -> None:
        cluster.to_kv("n2", kv_pb2.GetRequest(key=b"a"))

    in_a_cluster(nothing, seed)
