"""Transactions whose keys are known beforehand, over real gRPC against the fake cluster."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import kvclient
from kvclient import Delete, Get, Key, Put, Range, errors
from kvclient.hashing import anchor_key
from tests.unit.kvclient.fake_cluster import CONFLICT, NO_LEADER, FakeCluster, Fault


async def test_txn_comparisons_hold_takes_then_and_answers_in_order(kv: kvclient.AsyncClient) -> None:
    """Each kind of result stands where its operation stood; reads see the state before the writes."""
    written = await kv.put("stock/1", "3")
    await kv.put("old", "x")
    txn = kv.txn().if_(Key("stock/1").value == "3", Key("order/1").absent()).if_(Key("stock/1").revision == written.revision)
    txn.then(Put("stock/1", "2"), Get("stock/1")).then(Delete("old"), Get("none"), Range(prefix="stock/")).else_(Get("old"))
    result = await txn.run()
    assert result.succeeded is True
    put, got, deleted, missing, page = result.results
    assert isinstance(put, kvclient.PutResult)
    assert isinstance(got, kvclient.Value)
    assert (got.text, got.revision) == ("3", written.revision)
    assert isinstance(deleted, kvclient.DeleteResult)
    assert deleted.found is True
    assert missing is None
    assert isinstance(page, kvclient.RangePage)
    assert [item.text for item in page.items] == ["3"]
    assert result.transaction_id
    assert all(isinstance(served, kvclient.Served) for served in result.served)
    value = await kv.get("stock/1")
    assert value is not None
    assert (value.text, value.revision) == ("2", put.revision)
    assert await kv.get("old") is None


async def test_txn_a_comparison_fails_takes_else(kv: kvclient.AsyncClient) -> None:
    """That is a result, not an error."""
    result = await kv.txn().if_(Key("a").exists(), Key("b").absent()).then(Put("a", "1")).else_(Put("b", "1"), Get("a")).run()
    assert result.succeeded is False
    assert len(result.results) == 2
    assert await kv.get("a") is None
    assert await kv.get("b") is not None


@pytest.mark.parametrize("name", [f"key-{number}" for number in range(8)])
async def test_txn_goes_to_the_leader_of_its_anchor(cluster: FakeCluster, kv: kvclient.AsyncClient, name: str) -> None:
    """Without forwarding it still arrives, with one call."""
    cluster.forwards = False
    await kv.txn().if_(Key("compared").absent()).then(Get("read"), Put(name, "v")).else_(Put("other", "v")).run()
    assert cluster.calls("Txn") == 1
    (request,) = cluster.leader_of(name).transactions
    assert anchor_key(request) == name.encode()


async def test_txn_read_only_carries_no_id_and_is_repeated_like_a_read(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """It has nothing to execute once: a lost answer costs only time; a write in a branch that is not taken makes it a write."""
    cluster.leader_of("a").faults.append(Fault(lose_answer=True))
    result = await kv.txn().if_(Key("a").absent()).then(Get("a")).else_(Range(prefix="a")).run()
    assert result.results == (None,)
    assert cluster.calls("Txn") == 2
    assert cluster.request_ids == [None, None]
    await kv.txn().if_(Key("a").absent()).then(Get("a")).else_(Delete("a")).run()
    assert cluster.request_ids[-1] is not None


async def test_txn_conflict_is_told_and_not_repeated(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """Whoever lost decides whether to try again."""
    cluster.leader_of("a").refusals.append((lambda kind, key: kind == "txn", CONFLICT))
    with pytest.raises(errors.Conflict) as caught:
        await kv.txn().then(Put("a", "1")).run()
    assert caught.value.definite
    assert caught.value.key is None
    assert cluster.calls("Txn") == 1


async def test_txn_no_leader_is_retried(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """Definite refusals that pass are retried, as for any operation."""
    for node in cluster.nodes.values():
        node.refusals.append((lambda kind, key: kind == "txn", NO_LEADER))
    assert (await kv.txn().then(Put("a", "1")).run()).succeeded
    assert cluster.calls("Txn") > 1


async def test_txn_never_leaves_in_a_batch() -> None:
    """While both slots of the node are taken, a transaction goes out by itself."""
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri) as kv:
        node, event = cluster.nodes["n1"], asyncio.Event()
        node.faults.extend(Fault(stall=event) for _ in range(2))
        busy = [asyncio.ensure_future(kv.get("b")) for _ in range(2)]
        while node.calls["Get"] < 2:
            await asyncio.sleep(0)
        assert (await kv.txn().then(Put("a", "1")).run()).succeeded
        event.set()
        await asyncio.gather(*busy)
        assert node.batch_sizes == []


async def test_txn_of_a_session_sends_its_token_and_takes_the_one_that_covers_all(
    cluster: FakeCluster, kv: kvclient.AsyncClient
) -> None:
    """Every shard's part is seen by the session's next reads, from replicas that lag, too."""
    keys = [f"k{number}" for number in range(8)]
    for node in cluster.nodes.values():
        node.lag = {shard.number: 0 for shard in cluster.shards if cluster.leaders[shard.number] != node.name}
    session = kv.session()
    await session.put("before", "1")
    sent = session.token
    result = await session.txn().then(*(Put(key, "v") for key in keys)).run()
    assert [request.session for node in cluster.nodes.values() for request in node.transactions] == [sent]
    assert {served.shard for served in result.served} == {cluster.shard_of(key) for key in keys}
    assert session.token.count(b";") >= len(result.served)
    assert session._token.parts() == (session.token,)
    for key in ["before", *keys]:
        assert await session.get(key) is not None


async def test_txn_too_large_or_writing_a_key_twice_is_refused_before_it_is_sent(
    cluster: FakeCluster, kv: kvclient.AsyncClient
) -> None:
    """128 comparisons and operations are the protocol's limit; both branches may write the same key."""
    largest = kv.txn().if_(*(Key(f"c{number}").absent() for number in range(64)))
    largest.then(*(Put(f"k{number}", "") for number in range(64)))
    assert (await largest.run()).succeeded
    with pytest.raises(errors.InvalidArgument) as caught:
        await kv.txn().then(*(Get(f"k{number}") for number in range(100))).else_(*(Get("k") for _ in range(29))).run()
    assert caught.value.field == "txn"
    twice = {"then": kv.txn().then(Put("k", "1"), Delete("k")), "else": kv.txn().else_(Put("k", "1"), Put("k", "2"))}
    for branch, txn in twice.items():
        with pytest.raises(errors.InvalidArgument) as caught:
            await txn.run()
        assert caught.value.field == branch
    assert cluster.calls("Txn") == 1
    await kv.txn().then(Put("k", "1"), Get("k")).else_(Delete("k")).run()


async def test_txn_runs_once_and_takes_only_its_parts(kv: kvclient.AsyncClient) -> None:
    """Misuse names what is wrong."""
    txn = kv.txn().then(Put("k", "1"))
    await txn.run()
    with pytest.raises(errors.InvalidArgument, match="build a new one"):
        await txn.run()
    wrong: list[tuple[Any, Any, str]] = [
        (kv.txn().if_, True, "compare"),
        (kv.txn().if_, Key("a").value, "compare"),
        (kv.txn().if_, [Key("a").exists()], "compare"),
        (kv.txn().then, "put", "then"),
        (kv.txn().then, Put, "then"),
        (kv.txn().else_, Key("a").exists(), "else"),
    ]
    for method, argument, field in wrong:
        with pytest.raises(errors.InvalidArgument) as caught:
            method(argument)
        assert caught.value.field == field
