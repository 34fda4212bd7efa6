"""Clients' requests, arbitrary: each is answered or refused, within bounds, and all replicas stay equal."""

from __future__ import annotations

from typing import Any

from google.protobuf import message_factory
from hypothesis import example, given
from hypothesis import strategies as st

from kvapi.v1 import cluster_pb2, kv_pb2
from kvnode.api.cluster_service import ClusterService
from kvnode.errors import InvalidRequest
from kvnode.routing import session
from kvnode.shard.superseded import operation_id, parse_operation_id
from tests.fuzz.messages import keys, messages, names, numbers_64
from tests.fuzz.profile import fuzz
from tests.fuzz.worlds import NODES, Cluster, in_a_cluster


def requests_of(file: Any, service: str) -> list[Any]:
    """The request types of a service."""
    return [message_factory.GetMessageClass(method.input_type) for method in file.DESCRIPTOR.services_by_name[service].methods]


KV, ADMIN = requests_of(kv_pb2, "KV"), requests_of(cluster_pb2, "Cluster")
small = st.sampled_from((0, 0, 1, 2, 3))
request_ids = messages(
    kv_pb2.RequestId,
    {
        "session": st.sampled_from((b"c" * 16, b"d" * 16)),
        "sequence": small | numbers_64,
        "acknowledged": small,
        "started": numbers_64,
    },
)
plausible = {
    "consistency": st.sampled_from((0, 0, 0, 1, 1, 2, 3, 4)),
    "key": keys,
    "key_text": st.just(""),
    "value_text": st.just(""),
    "acks": small,
    "shard": st.integers(0, 1),
    "if_revision": small | numbers_64,
    "max_staleness_ms": st.sampled_from((0, 0, 1, 1000, 2**64 - 1)),
    "RequestId": request_ids,
}
in_transactions = {
    **plausible,
    "RangeRequest.start": st.just(b""),
    "RangeRequest.end": st.just(b""),
    "RangeRequest.shard": st.just(0),
    **{name: st.just(0) for name in ("consistency", "acks", "max_staleness_ms", "if_revision")},
    **{f"{name}Request.session": st.just(b"") for name in ("Put", "Get", "Delete", "Range")},
    **{f"{name}Request.request": st.just(kv_pb2.RequestId()) for name in ("Put", "Delete")},
}
requests = st.one_of(
    st.sampled_from(KV).flatmap(messages),
    st.sampled_from([*KV, *KV]).flatmap(lambda kind: messages(kind, plausible)),
    messages(kv_pb2.TxnRequest, in_transactions),
)


@given(sent=st.lists(st.tuples(st.sampled_from(NODES), requests, st.integers(0, 3)), min_size=4, max_size=24))
@fuzz(12)
def test_clients_requests_that_are_arbitrary_leave_all_replicas_equal(sent: list[tuple[str, Any, int]]) -> None:
    """Every request of `KV`, through any node and after any number of hops: an answer or a documented error."""

    async def send(cluster: Cluster) -> None:
        for to, request, hops in sent:
            cluster.to_kv(to, request, hops)
            await cluster.world.sleep(0.002 * hops)

    in_a_cluster(send)


admin = st.sampled_from(ADMIN).flatmap(lambda kind: messages(kind, {"shard": small, "to": st.sampled_from(NODES) | names}))


@given(sent=st.lists(st.tuples(st.sampled_from(NODES), admin | requests), min_size=4, max_size=16))
@fuzz(6)
def test_operators_requests_that_are_arbitrary_stop_nobody(sent: list[tuple[str, Any]]) -> None:
    """Every request of `Cluster`, between clients' requests: an answer or a documented error."""

    async def send(cluster: Cluster) -> None:
        for to, request in sent:
            if type(request) in KV:
                cluster.to_kv(to, request)
                continue
            service = ClusterService(cluster.node(to))
            handlers: dict[str, Any] = {
                "LocateRequest": service.locate,
                "TopologyRequest": service.topology,
                "MembersRequest": service.members,
                "StatusRequest": service.status,
                "TransferLeadershipRequest": service.transfer_leadership,
                "SupersededRequest": service.superseded,
                "EventsRequest": service.events,
                "TransactionsRequest": service._transactions.list,
                "ResolveTransactionRequest": service._transactions.resolve,
                "StatsRequest": service._observation.stats,
                "LatencyRequest": service._observation.latency,
                "AvailabilityRequest": service._observation.availability,
                "TracesRequest": service._observation.traces,
            }
            cluster.spawn(to, request, handlers[request.DESCRIPTOR.name])
            await cluster.world.sleep(0.01)

    in_a_cluster(send)


tokens = st.binary(max_size=200) | messages(kv_pb2.SessionToken).map(lambda token: token.SerializeToString())


@given(parts=st.lists(tokens, max_size=4))
@fuzz(200)
def test_session_tokens_of_arbitrary_bytes_are_tokens_or_refused(parts: list[bytes]) -> None:
    """Any bytes are a token or `InvalidRequest`; what joins tokens says no less than each of them."""
    try:
        said = [one for part in parts for one in session.decode(part).positions]
    except InvalidRequest:
        return
    joined = session.decode(session.joined(parts))
    shards = [position.shard for position in joined.positions]
    assert len(shards) == len(dict.fromkeys(shards))
    for one in said:
        known = session.position(joined, one.shard)
        assert known is not None
        assert known.revision >= one.revision
        assert known.hlc >= one.hlc


@given(text=st.text(max_size=60) | st.from_regex(r"[0-9-]{1,5}\.[a-z.]{0,4}\.[0-9_+]{1,5}\.[0-9]{1,5}", fullmatch=True))
@example(text="1." + "n1" + "." + "9" * 5000 + ".1")
@fuzz(300)
def test_operation_ids_of_arbitrary_text_are_ids_or_refused(text: str) -> None:
    """Any text is the id of an operation, written in its one way, or a ValueError, which the door turns into a refusal."""
    try:
        shard, origin, sequence = parse_operation_id(text)
    except ValueError:
        return
    assert operation_id(shard, origin, sequence) == text
