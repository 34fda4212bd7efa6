"""Everything a healthy cluster of real processes serves: through the SDK, by any node, and from a terminal."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import kvclient
from kvapi.v1 import cluster_pb2, kv_pb2
from kvclient import Consistency, OperationState
from kvctl.playground import Playground
from tests.integration import harness


async def test_strong_operations_on_one_key_see_each_other(client: kvclient.AsyncClient) -> None:
    """Put, get, compare-and-set and delete follow each other as on a single machine."""
    written = await client.put("strong/a", "1")
    found = await client.get("strong/a")
    assert found is not None
    assert (found.value, found.revision, found.version, found.tentative) == (b"1", written.revision, 1, False)
    second = await client.compare_and_set("strong/a", "2", found.revision)
    with pytest.raises(kvclient.CompareFailed) as failed:
        await client.compare_and_set("strong/a", "3", found.revision)
    assert failed.value.revision == second.revision
    with pytest.raises(kvclient.CompareFailed):
        await client.put("strong/a", "4", if_revision=0)
    gone = await client.delete("strong/a", if_revision=second.revision)
    assert gone.found
    assert await client.get("strong/a") is None
    assert not (await client.delete("strong/a")).found


async def test_range_over_all_shards_comes_in_pages_and_in_order(client: kvclient.AsyncClient) -> None:
    """Keys of eight shards come merged in byte order, whatever the size of the pages; they can be counted and bounded."""
    keys = [f"range/{number:03}".encode() for number in range(120)]
    results = await _put_all(client, keys)
    assert not [result for result in results if isinstance(result, kvclient.KvError)]
    assert [item.key async for item in client.range(prefix="range/")] == keys
    page = await client.range_page(prefix="range/", limit=7)
    assert [item.key for item in page.items] == keys[:7]
    page = await client.range_page(prefix="range/", limit=7, page_token=page.next_page_token, keys_only=True)
    assert [(item.key, item.value) for item in page.items] == [(key, b"") for key in keys[7:14]]
    assert await client.count(prefix="range/") == 120
    bounded = [item.key async for item in client.range(start="range/010", end="range/020")]
    assert bounded == keys[10:20]


async def _put_all(client: kvclient.AsyncClient, keys: list[bytes]) -> list[object]:
    batch = client.batch()
    for key in keys:
        batch.put(key, b"value of " + key)
    return list(await batch.run())


async def test_batch_with_a_failing_operation_gives_each_its_own_outcome(client: kvclient.AsyncClient) -> None:
    """Operations of a batch are independent: one that fails does not touch the others."""
    await client.put("batch/a", "old")
    batch = client.batch().put("batch/b", "1").put("batch/a", "new", if_revision=0).get("batch/a").delete("batch/none")
    put, compared, got, deleted = await batch.run()
    assert isinstance(put, kvclient.PutResult)
    assert isinstance(compared, kvclient.CompareFailed)
    assert isinstance(got, kvclient.Value)
    assert got.value == b"old"
    assert isinstance(deleted, kvclient.DeleteResult)
    assert not deleted.found


async def test_eventual_operations_converge_into_the_one_history(client: kvclient.AsyncClient) -> None:
    """An eventual write is seen by a strong read once it has its place in the log, and its fate can be asked for."""
    written = await client.put("eventual/a", "1", consistency="eventual")
    assert written.revision == 0
    assert written.operation_id

    async def applied() -> bool:
        return (await client.operation(written.operation_id)).state is OperationState.APPLIED

    await harness.until_async(applied)
    fate = await client.operation(written.operation_id)
    found = await client.get("eventual/a")
    assert found is not None
    assert (found.value, found.revision, fate.key) == (b"1", fate.revision, b"eventual/a")
    await client.delete("eventual/a", consistency="eventual")

    async def gone() -> bool:
        return await client.get("eventual/a") is None

    await harness.until_async(gone)


async def test_eventual_put_with_acks_returns_when_so_many_disks_hold_it(client: kvclient.AsyncClient) -> None:
    """With acks=3 every replica has the write when it returns: an eventual read on each node shows it at once."""
    result = await client.put("acks/a", "1", consistency="eventual", acks=3)
    assert result.acks == 3
    many = await asyncio.gather(*(client.put(f"acks/{i}", "1", consistency="eventual", acks=2) for i in range(50)))
    assert all(one.acks >= 2 for one in many)


async def test_any_node_takes_any_request(cluster: Playground) -> None:
    """A node that does not lead a key's shard forwards, so that clients need to know one address only."""
    keys = [f"anywhere/{number}".encode() for number in range(16)]
    for address in cluster.endpoints:
        async with harness.connect_node(address) as node:
            for key in keys:
                value = address.encode() + key
                put = await node.kv.Put(kv_pb2.PutRequest(key=key, value=value), timeout=5)
                assert put.served.role == kv_pb2.ROLE_LEADER
                assert put.served.consistency == kv_pb2.CONSISTENCY_STRONG
                got = await node.kv.Get(kv_pb2.GetRequest(key=key), timeout=5)
                assert got.found
                assert got.value == value
    async with harness.connect_node(cluster.endpoints[0]) as node:
        located = await node.cluster.Locate(cluster_pb2.LocateRequest(key=keys[0]), timeout=5)
        assert located.leader in cluster.endpoints
        assert sorted(located.replicas) == sorted(cluster.endpoints)


async def test_session_over_different_nodes_reads_its_own_writes(cluster: Playground) -> None:
    """A session token from one node makes any other node wait until it has what the session wrote."""
    async with harness.connect_node(cluster.endpoints[0]) as first, harness.connect_node(cluster.endpoints[1]) as second:
        token = b""
        for number in range(40):
            key, value = f"session/{number % 8}".encode(), str(number).encode()
            consistency = kv_pb2.CONSISTENCY_EVENTUAL if number % 2 else kv_pb2.CONSISTENCY_STRONG
            request = kv_pb2.PutRequest(key=key, value=value, consistency=consistency, session=token)
            token = (await first.kv.Put(request, timeout=5)).served.session
            get = kv_pb2.GetRequest(key=key, consistency=kv_pb2.CONSISTENCY_SESSION, session=token)
            answer = await second.kv.Get(get, timeout=5)
            assert answer.value == value, f"write {number}"
            assert answer.served.consistency == kv_pb2.CONSISTENCY_SESSION
            token = answer.served.session


async def test_session_of_the_sdk_reads_its_own_writes(client: kvclient.AsyncClient) -> None:
    """The SDK keeps the token by itself, and another process can go on with it."""
    session = client.session()
    for number in range(20):
        await session.put("session/sdk", str(number), consistency="eventual")
        found = await session.get("session/sdk")
        assert found is not None
        assert found.text == str(number)
    later = await client.session(session.token).get("session/sdk")
    assert later is not None
    assert later.text == "19"


async def test_bounded_read_on_a_follower_says_how_stale_it_may_be(cluster: Playground, client: kvclient.AsyncClient) -> None:
    """A bounded read is served by any replica that knows its staleness; the answer never exceeds what was asked."""
    await client.put("bounded/a", "1")
    for address in cluster.endpoints:
        async with harness.connect_node(address) as node:
            request = kv_pb2.GetRequest(key=b"bounded/a", consistency=kv_pb2.CONSISTENCY_BOUNDED, max_staleness_ms=2000)
            answer = await node.kv.Get(request, timeout=5)
            assert answer.served.HasField("staleness_ms")
            assert answer.served.staleness_ms <= 2001
    await asyncio.sleep(1.0)  # longer than the bound below: what was written before must be there
    found = await client.get("bounded/a", max_staleness=1.0)
    assert found is not None
    assert found.value == b"1"


def test_sync_client_does_what_the_async_one_does(sync_client: kvclient.Client) -> None:
    """The synchronous twin: strong, eventual, range, compare-and-set, batch and session."""
    kv = sync_client
    written = kv.put("sync/a", "1")
    with pytest.raises(kvclient.CompareFailed):
        kv.compare_and_set("sync/a", "2", written.revision - 1)
    kv.compare_and_set("sync/a", "2", written.revision)
    results = kv.batch().put("sync/b", "b").get("sync/a").run()
    assert isinstance(results[1], kvclient.Value)
    assert results[1].value == b"2"
    assert [(item.key, item.value) for item in kv.range(prefix="sync/")] == [(b"sync/a", b"2"), (b"sync/b", b"b")]
    session = kv.session()
    session.put("sync/c", "c", consistency="eventual")
    mine = session.get("sync/c")
    assert mine is not None
    assert mine.value == b"c"
    assert kv.delete("sync/a").found
    assert kv.get("sync/a") is None
    assert kv.get("sync/b", consistency=Consistency.EVENTUAL) is not None


async def test_concurrent_compare_and_sets_lose_no_increment(client: kvclient.AsyncClient) -> None:
    """Eight callers that increment one counter by compare-and-set, ten times each, end at eighty."""
    await client.put("counter", "0")

    async def increment() -> None:
        while True:
            now = await client.get("counter")
            assert now is not None
            try:
                await client.compare_and_set("counter", str(int(now.text) + 1), now.revision)
                return
            except kvclient.CompareFailed:
                continue

    async def caller() -> None:
        for _ in range(10):
            await increment()

    await asyncio.gather(*(caller() for _ in range(8)))
    end = await client.get("counter")
    assert end is not None
    assert end.text == "80"


def _grpcurl(grpcurl: Path, *arguments: str) -> str:
    done = subprocess.run([grpcurl, "-plaintext", *arguments], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_grpcurl_with_nothing_but_an_address_lists_describes_puts_and_gets(cluster: Playground, grpcurl: Path) -> None:
    """Reflection tells a person at a terminal everything, and text fields spare them base64."""
    address = cluster.endpoints[1]
    listed = _grpcurl(grpcurl, address, "list").split()
    assert {"kvapi.v1.KV", "kvapi.v1.Cluster", "grpc.health.v1.Health", "kvapi.v1.Replication"} <= set(listed)
    assert "rpc Put" in _grpcurl(grpcurl, address, "describe", "kvapi.v1.KV")
    assert "key_text" in _grpcurl(grpcurl, address, "describe", "kvapi.v1.PutRequest")
    put = '{"key_text": "greeting", "value_text": "hello, wörld"}'
    assert int(json.loads(_grpcurl(grpcurl, "-d", put, address, "kvapi.v1.KV/Put"))["revision"]) > 0
    got = json.loads(_grpcurl(grpcurl, "-d", '{"key_text": "greeting", "text": true}', address, "kvapi.v1.KV/Get"))
    assert (got["found"], got["key_text"], got["value_text"]) == (True, "greeting", "hello, wörld")
    page = '{"prefix_text": "greet", "text": true}'
    items = json.loads(_grpcurl(grpcurl, "-d", page, address, "kvapi.v1.KV/Range"))["items"]
    assert [item["key_text"] for item in items] == ["greeting"]
    health = json.loads(_grpcurl(grpcurl, "-d", '{"service": "kvapi.v1.KV"}', address, "grpc.health.v1.Health/Check"))
    assert health == {"status": "SERVING"}


def test_grpcurl_with_a_mistake_gets_the_field_and_the_reason(cluster: Playground, grpcurl: Path) -> None:
    """An error at the terminal is a sentence, with its details decoded."""
    arguments = [grpcurl, "-plaintext", "-d", '{"value_text": "x"}', cluster.endpoints[0], "kvapi.v1.KV/Put"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode != 0
    assert "InvalidArgument" in done.stderr
    assert "key: empty" in done.stderr
    assert "BadRequest" in done.stderr


async def test_health_names_the_services_and_who_leads(cluster: Playground) -> None:
    """KV is SERVING everywhere, KV.leader on the nodes that lead a shard and only there, an unknown name is NOT_FOUND."""
    serving = health_pb2.HealthCheckResponse.SERVING

    async def leaders_say_so() -> bool:
        for node in cluster.nodes:
            async with harness.connect_node(node.address) as stubs:
                health = health_pb2_grpc.HealthStub(stubs.channel)
                for name in ("", "kvapi.v1.KV"):
                    assert (await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)).status == serving
                says = await health.Check(health_pb2.HealthCheckRequest(service="kvapi.v1.KV.leader"), timeout=5)
                status = await stubs.cluster.Status(cluster_pb2.StatusRequest(), timeout=5)
                leads = any(shard.role == kv_pb2.ROLE_LEADER for shard in status.shards)
                if (says.status == serving) != leads:
                    return False
        return True

    await harness.until_async(leaders_say_so, what="health that agrees with who leads")
    async with harness.connect_node(cluster.endpoints[0]) as stubs:
        health = health_pb2_grpc.HealthStub(stubs.channel)
        with pytest.raises(grpc.RpcError) as unknown:
            await health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=5)
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]


async def test_transfer_of_leadership_on_request_moves_it_and_loses_nothing(
    cluster: Playground, client: kvclient.AsyncClient
) -> None:
    """An operator hands a shard over; writes go on and every acknowledged one is there."""
    await client.put("handed{over}", "0")
    shard = (await client.locate("handed{over}")).shard
    before = harness.leader_name(cluster, b"{over}")
    to = next(name for name in cluster.names if name != before)
    async with harness.Writers(client, "transfer") as writers:
        async with harness.connect_node(cluster.node(before).address) as node:
            request = cluster_pb2.TransferLeadershipRequest(shard=shard, to=to)
            answer = await node.cluster.TransferLeadership(request, timeout=5)
        assert answer.leader == to
        await asyncio.sleep(0.5)
    assert (await client.put("handed{over}", "1")).served.node == to
    await harness.verify(client, writers.ledger, "transfer")
    assert not writers.ledger.unknown


async def test_replicas_after_all_of_this_agree_on_their_state(cluster: Playground) -> None:
    """All replicas of every shard have the same state hash at the same index."""
    await asyncio.to_thread(harness.await_agreement, cluster)
