"""Bad input of every kind, from clients and from would-be peers: a clear error, a living server, and nothing lost."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from kvapi.v1 import (
    cluster_pb2,
    election_pb2,
    election_pb2_grpc,
    failure_detection_pb2,
    failure_detection_pb2_grpc,
    kv_pb2,
    message_pb2,
    replication_pb2,
    replication_pb2_grpc,
)
from kvctl.playground import Playground
from tests.integration import harness

MIB = 1024 * 1024
LEADER_WAIT_S = 5.0
SENTINELS = {f"sentinel/{number}".encode(): os.urandom(64) for number in range(8)}


async def _stored(stubs: harness.NodeStubs, key: bytes) -> bytes:
    """What is stored. On a busy machine a shard may be without a leader for a moment; no other error is forgiven."""
    deadline = time.monotonic() + LEADER_WAIT_S
    while True:
        try:
            return (await stubs.kv.Get(kv_pb2.GetRequest(key=key), timeout=10)).value
        except grpc.aio.AioRpcError as error:
            if harness.error_info(error)[1].reason != "NO_LEADER" or time.monotonic() > deadline:
                raise
            await asyncio.sleep(harness.POLL_INTERVAL_S)


@pytest.fixture
async def node(cluster: Playground) -> AsyncIterator[harness.NodeStubs]:
    """Stubs of the first node; afterwards all processes are the same as before, and what was stored is there still."""
    before = {one.name: one.pid for one in cluster.nodes}
    async with harness.connect_node(cluster.endpoints[0]) as stubs:
        for key, value in SENTINELS.items():
            await stubs.kv.Put(kv_pb2.PutRequest(key=key, value=value), timeout=10)
        yield stubs
        for key, value in SENTINELS.items():
            assert await _stored(stubs, key) == value
    assert {one.name: one.pid for one in cluster.nodes} == before
    for name in cluster.names:
        loud = [line for line in harness.log_lines(cluster, name) if line["level"] in ("critical", "fatal")]
        assert not loud, loud


async def _refusal(call: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as failed:
        await call
    return failed.value


@pytest.mark.parametrize(
    ("request_", "field", "words"),
    [
        (kv_pb2.PutRequest(value=b"x"), "key", "empty"),
        (kv_pb2.PutRequest(key=b"k" * 401, value=b"x"), "key", "401 bytes, at most 400"),
        (kv_pb2.PutRequest(key=b"k", value=bytes(MIB + 1)), "value", f"{MIB + 1} bytes, at most {MIB}"),
        (kv_pb2.PutRequest(key=b"k", key_text="k", value=b"x"), "key_text", "key is set too"),
        (kv_pb2.PutRequest(key=b"k", value=b"x", consistency=kv_pb2.CONSISTENCY_SESSION), "consistency", "3 is not for"),
        (kv_pb2.PutRequest(key=b"k", value=b"x", consistency=99), "consistency", "99 is not for"),  # type: ignore[arg-type]
        (kv_pb2.PutRequest(key=b"k", value=b"x", acks=2), "acks", "only for eventual"),
        (kv_pb2.PutRequest(key=b"k", consistency=kv_pb2.CONSISTENCY_EVENTUAL, if_revision=1), "if_revision", "only a strong"),
        (kv_pb2.GetRequest(), "key", "empty"),
        (kv_pb2.GetRequest(key=b"k", consistency=kv_pb2.CONSISTENCY_BOUNDED), "max_staleness_ms", "needs its bound"),
        (kv_pb2.GetRequest(key=b"k", consistency=kv_pb2.CONSISTENCY_SESSION, session=b"\xff\xff"), "session", "token"),
        (kv_pb2.DeleteRequest(), "key", "empty"),
        (kv_pb2.RangeRequest(start=b"b", end=b"a"), "end", "above start"),
        (kv_pb2.RangeRequest(limit=1001), "limit", "1001"),
        (kv_pb2.RangeRequest(shard=8), "shard", "no shard 8"),
        (kv_pb2.BatchRequest(operations=[kv_pb2.BatchOperation()] * 1025), "operations", "1025"),
        (kv_pb2.OperationRequest(operation_id="nonsense"), "operation_id", "nonsense"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
async def test_request_out_of_bounds_is_refused_with_its_field(
    node: harness.NodeStubs, request_: Any, field: str, words: str
) -> None:
    """INVALID_ARGUMENT names the field, what is wrong and the bound; ErrorInfo and BadRequest say the same to programs."""
    method = getattr(node.kv, type(request_).__name__.removesuffix("Request"))
    error = await _refusal(method(request_, timeout=10))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error  # type: ignore[attr-defined]
    status, info = harness.error_info(error)
    assert info.domain == "kvnode"
    assert info.reason == "INVALID_ARGUMENT"
    assert words in status.message
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    assert bad.field_violations[0].field == field


async def test_request_larger_than_four_mebibytes_is_refused_as_a_whole(node: harness.NodeStubs) -> None:
    """A batch whose every value is within bounds is still bounded as a whole; none of its operations is done."""
    puts = [kv_pb2.PutRequest(key=f"huge/{number}".encode(), value=os.urandom(MIB)) for number in range(5)]
    batch = kv_pb2.BatchRequest(operations=[kv_pb2.BatchOperation(put=put) for put in puts])
    error = await _refusal(node.kv.Batch(batch, timeout=10))
    assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)  # type: ignore[attr-defined]
    assert any(number in error.details().replace(",", "") for number in ("4194304", "4 MiB")), error.details()  # type: ignore[attr-defined]
    left = await node.kv.Range(kv_pb2.RangeRequest(prefix=b"huge/", count_only=True), timeout=10)
    assert left.count == 0


async def test_request_larger_than_any_message_is_refused(node: harness.NodeStubs) -> None:
    """What is larger than even peers may send never reaches the service."""
    error = await _refusal(node.kv.Put(kv_pb2.PutRequest(key=b"k", value=bytes(20 * MIB)), timeout=20))
    assert error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT)  # type: ignore[attr-defined]


async def test_largest_allowed_value_goes_the_whole_way(node: harness.NodeStubs) -> None:
    """A value of exactly one mebibyte under a key of 400 bytes is stored and read back."""
    key, value = b"k" * 400, os.urandom(MIB)
    await node.kv.Put(kv_pb2.PutRequest(key=key, value=value), timeout=10)
    assert (await node.kv.Get(kv_pb2.GetRequest(key=key), timeout=10)).value == value
    await node.kv.Delete(kv_pb2.DeleteRequest(key=key), timeout=10)


async def test_request_with_unknown_fields_is_served(node: harness.NodeStubs) -> None:
    """A newer client's fields are ignored, as protobuf has it."""
    raw = kv_pb2.PutRequest(key=b"unknown/field", value=b"1").SerializeToString() + b"\xc2\x3e\x03new" + b"\xc8\x3e\x07"
    put = node.channel.unary_unary("/kvapi.v1.KV/Put", response_deserializer=kv_pb2.PutResponse.FromString)
    assert (await put(raw, timeout=10)).revision > 0
    assert (await node.kv.Get(kv_pb2.GetRequest(key=b"unknown/field"), timeout=10)).value == b"1"


@pytest.mark.parametrize(
    "method",
    ["KV/Put", "KV/Batch", "Cluster/Status", "Election/RequestVote", "Replication/ReadIndex", "Gossip/Exchange"],
)
async def test_broken_protobuf_gets_an_error(node: harness.NodeStubs, method: str) -> None:
    """Bytes that are no message of the method's type are refused."""
    call = node.channel.unary_unary(f"/kvapi.v1.{method}")
    error = await _refusal(call(b"\x0a\xff\xff\xff\xff\x0f broken", timeout=10))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error  # type: ignore[attr-defined]
    assert "cannot be read" in harness.error_info(error)[0].message


async def test_broken_protobuf_in_a_stream_ends_the_stream_alone(node: harness.NodeStubs) -> None:
    """A peer stream that carries nonsense is refused; other calls on the same connection go on."""
    for method in ("FailureDetection/Heartbeat", "Replication/Append"):
        stream = node.channel.stream_stream(f"/kvapi.v1.{method}")(timeout=10)
        await stream.write(b"\x0a\xff\xff\xff\xff\x0f broken")
        await _refusal(stream.read())
        assert (await node.kv.Put(kv_pb2.PutRequest(key=b"after/broken", value=b"1"), timeout=10)).revision > 0


async def test_unknown_method_is_unimplemented(node: harness.NodeStubs) -> None:
    """So that a newer client can tell an older server."""
    error = await _refusal(node.channel.unary_unary("/kvapi.v1.KV/Nonsense")(b"", timeout=10))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]


# Would-be peers.


async def _envelope(node: harness.NodeStubs, cluster: Playground, **changes: Any) -> message_pb2.Message:
    """An envelope as n2 would write it for n1, with changes."""
    members = await node.cluster.Members(cluster_pb2.MembersRequest(), timeout=10)
    second = next(member for member in members.members if member.name == "n2")
    right = message_pb2.Message(
        id=1,
        from_node="n2",
        to_node="n1",
        type=message_pb2.MESSAGE_TYPE_ELECTION,
        sent_at=(time.time_ns() // 1_000_000) << 16,
        cluster_id=cluster.cluster_id,
        protocol_version=2,
        from_incarnation=second.incarnation,
        from_uid=second.uid,
    )
    for name, value in changes.items():
        setattr(right, name, value)
    return right


STRANGERS = [
    ({"cluster_id": "another-cluster"}, "belongs to cluster"),
    ({"cluster_id": ""}, "belongs to cluster"),
    ({"protocol_version": 9}, "speaks version 9"),
    ({"from_node": "n9"}, "'n9' is no peer"),
    ({"from_node": "n1"}, "'n1' is no peer"),
    ({"to_node": "n3"}, "is for 'n3'"),
    ({"from_uid": "0" * 32}, "data directory"),
]


@pytest.mark.parametrize(("changes", "words"), STRANGERS, ids=lambda value: str(value) if isinstance(value, dict) else "")
async def test_peer_message_of_a_stranger_is_refused_and_changes_nothing(
    cluster: Playground, node: harness.NodeStubs, changes: dict[str, Any], words: str
) -> None:
    """Another cluster, another protocol version, no member, another addressee, another disk: each protocol refuses it, with
    what to check, and a vote for a high term from there raises no term."""
    message = await _envelope(node, cluster, **changes)
    vote = election_pb2.RequestVoteRequest(message=message, shard=0, term=1_000_000, last_log_index=10**9, last_log_term=10**6)
    index = replication_pb2.ReadIndexRequest(message=message, shard=0)
    calls = [
        election_pb2_grpc.ElectionStub(node.channel).RequestVote(vote, timeout=10),
        replication_pb2_grpc.ReplicationStub(node.channel).ReadIndex(index, timeout=10),
    ]
    for call in calls:
        status, info = harness.error_info(await _refusal(call))
        assert info.reason == "WRONG_CLUSTER"
        assert words in status.message
    streams = [
        failure_detection_pb2_grpc.FailureDetectionStub(node.channel).Heartbeat(timeout=10),
        replication_pb2_grpc.ReplicationStub(node.channel).Append(timeout=10),
    ]
    requests = [
        failure_detection_pb2.HeartbeatRequest(message=message),
        replication_pb2.AppendRequest(
            message=message, appends=[replication_pb2.ShardAppend(shard=0, term=1_000_000, commit=10**6)]
        ),
    ]
    for stream, request in zip(streams, requests, strict=True):
        await stream.write(request)
        status, info = harness.error_info(await _refusal(stream.read()))
        assert info.reason == "WRONG_CLUSTER"
    part = replication_pb2.InstallSnapshotRequest(message=message, shard=0, term=1_000_000, last_index=10**9, done=True)
    install = replication_pb2_grpc.ReplicationStub(node.channel).InstallSnapshot(iter([part]), timeout=10)
    _, info = harness.error_info(await _refusal(install))
    assert info.reason == "WRONG_CLUSTER"
    status_now = await node.cluster.Status(cluster_pb2.StatusRequest(), timeout=10)
    assert all(shard.term < 1_000_000 for shard in status_now.shards)


async def test_peer_message_about_an_unknown_shard_is_refused(cluster: Playground, node: harness.NodeStubs) -> None:
    """A member that speaks of a shard which does not exist gets an error, in each protocol that names shards."""
    message = await _envelope(node, cluster)
    election, replication = (
        election_pb2_grpc.ElectionStub(node.channel),
        replication_pb2_grpc.ReplicationStub(node.channel),
    )
    calls = [
        election.RequestVote(election_pb2.RequestVoteRequest(message=message, shard=99, term=1), timeout=10),
        election.TimeoutNow(election_pb2.TimeoutNowRequest(message=message, shard=99, term=1), timeout=10),
        replication.ReadIndex(replication_pb2.ReadIndexRequest(message=message, shard=99), timeout=10),
        replication.ReplicateEventual(
            replication_pb2.ReplicateEventualRequest(message=message, batches=[replication_pb2.EventualBatch(shard=99)]),
            timeout=10,
        ),
    ]
    for call in calls:
        _, info = harness.error_info(await _refusal(call))
        assert info.reason == "WRONG_SHARD"


async def test_peer_message_from_the_future_does_not_move_the_clock(cluster: Playground, node: harness.NodeStubs) -> None:
    """A clock an hour ahead is not followed: the node's own stamps stay with its own clock."""
    future = (time.time_ns() // 1_000_000 + 3_600_000) << 16
    message = await _envelope(node, cluster, sent_at=future, type=message_pb2.MESSAGE_TYPE_CONTROL)
    probe = failure_detection_pb2.ProbeRequest(message=message, target="n1")
    try:
        await failure_detection_pb2_grpc.FailureDetectionStub(node.channel).Probe(probe, timeout=10)
    except grpc.RpcError as refused:
        harness.error_info(refused)
    served = (await node.kv.Get(kv_pb2.GetRequest(key=b"sentinel/0"), timeout=10)).served
    assert abs((served.hlc >> 16) - time.time_ns() // 1_000_000) < 5_000


# Bytes that are no gRPC.


def _garbage() -> Iterator[bytes]:
    yield b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield os.urandom(4096)
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(4096)
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000") + b"\x00\xff\xff\x01\x05" + bytes(100)
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(200)
    yield b""


async def test_garbage_on_the_port_ends_that_connection_alone(cluster: Playground, node: harness.NodeStubs) -> None:
    """HTTP/1, TLS, noise, broken HTTP/2 and silence: the port goes on serving, meanwhile and afterwards."""
    open_sockets: list[socket.socket] = []
    try:
        for address in cluster.endpoints:
            host, _, port = address.rpartition(":")
            for garbage in _garbage():
                connection = await asyncio.to_thread(socket.create_connection, (host, int(port)), 5)
                open_sockets.append(connection)
                connection.setblocking(False)
                try:
                    await asyncio.get_running_loop().sock_sendall(connection, garbage)
                except ConnectionError:
                    pass
            async with harness.connect_node(address) as stubs:
                put = await stubs.kv.Put(kv_pb2.PutRequest(key=b"garbage", value=address.encode()), timeout=10)
                assert put.revision > 0
    finally:
        for connection in open_sockets:
            connection.close()


async def test_cancelled_and_expired_calls_leave_the_server_well(node: harness.NodeStubs) -> None:
    """Calls whose caller is gone, or whose deadline passed on the way, are dropped without a trace."""
    calls = [node.kv.Put(kv_pb2.PutRequest(key=b"cancelled", value=b"x")) for _ in range(50)]
    for call in calls:
        call.cancel()
    expired = [node.kv.Put(kv_pb2.PutRequest(key=b"expired", value=b"x"), timeout=0.000_001) for _ in range(50)]
    for call in expired:
        assert (await _refusal(call)).code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
    assert (await node.kv.Put(kv_pb2.PutRequest(key=b"cancelled", value=b"y"), timeout=10)).revision > 0
