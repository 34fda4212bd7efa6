"""Redirects, retries, and outcomes that nobody can know."""

from __future__ import annotations

import asyncio

import grpc
import pytest

import kvclient
from kvclient import errors
from tests.unit.kvclient.fake_cluster import NO_LEADER, OVERLOADED, FakeCluster, Fault, Refusal

pytestmark = pytest.mark.usefixtures("carried_by")


async def noticed(kv: kvclient.AsyncClient, node: str) -> None:
    """Wait until the client's end of the connection to a stopped node is down too: before that, a write may get lost in it."""
    while kv._connections[node]._channel.get_state() is grpc.ChannelConnectivity.READY:
        await asyncio.sleep(0)


async def test_put_after_an_election_follows_the_answer_to_the_new_leader(
    cluster: FakeCluster, kv: kvclient.AsyncClient
) -> None:
    """The old leader forwards once; the answer tells who leads, and the next write goes there."""
    old = cluster.leader_of("k")
    new = next(node for node in cluster.nodes.values() if node is not old)
    cluster.elect(cluster.shard_of("k"), new.name)
    await kv.put("k", "1")
    await kv.put("k", "2")
    assert (old.calls["Put"], new.calls["Put"]) == (1, 1)


async def test_put_not_leader_is_redirected_at_once(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """A node that cannot forward names the leader; the write goes there without waiting, and happens once."""
    cluster.forwards = False
    old = cluster.leader_of("k")
    new = next(node for node in cluster.nodes.values() if node is not old)
    cluster.elect(cluster.shard_of("k"), new.name)
    result = await kv.put("k", "1")
    assert result.served.node == new.name
    assert (old.calls["Put"], new.calls["Put"]) == (1, 1)


@pytest.mark.parametrize("refusal", [NO_LEADER, OVERLOADED, Refusal(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")])
async def test_put_definite_refusal_is_retried_until_it_succeeds(
    cluster: FakeCluster, kv: kvclient.AsyncClient, refusal: Refusal
) -> None:
    """Nothing happened, and a retry may help: the caller does not notice."""
    for node in cluster.nodes.values():
        node.refusals.append((lambda kind, key: kind == "put", refusal))
    result = await kv.put("k", "v")
    value = await kv.get("k")
    assert value is not None
    assert (value.revision, value.version) == (result.revision, 1)
    assert cluster.calls("Put") > 1


async def test_get_answer_lost_is_read_again_elsewhere(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """Reads change nothing, so a broken connection costs the caller only time."""
    await kv.put("k", "v")
    leader = cluster.leader_of("k")
    leader.faults.append(Fault(lose_answer=True))
    value = await kv.get("k")
    assert value is not None
    assert cluster.calls("Get") == 2
    assert leader.calls["Get"] == 1


async def test_put_deadline_passes_in_flight_is_outcome_unknown(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """A write that was sent and not answered in time may have happened."""
    event = asyncio.Event()
    for node in cluster.nodes.values():
        node.faults.extend(Fault(stall=event) for _ in range(4))
    with pytest.raises(errors.OutcomeUnknown) as caught:
        await kv.put("k", "v", timeout=0.05)
    assert isinstance(caught.value.cause, errors.DeadlineExceeded)
    event.set()


async def test_get_deadline_passes_is_deadline_exceeded(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """A read that is late is only late."""
    event = asyncio.Event()
    for node in cluster.nodes.values():
        node.faults.extend(Fault(stall=event) for _ in range(3))
    with pytest.raises(errors.DeadlineExceeded) as caught:
        await kv.get("k", timeout=0.05)
    assert caught.value.definite
    event.set()


async def test_get_stalled_node_is_left_after_a_share_of_the_time(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """A node that hangs does not eat the whole deadline of a read: another one answers."""
    await kv.put("k", "v")
    event = asyncio.Event()
    cluster.leader_of("k").faults.append(Fault(stall=event))
    assert await kv.get("k", timeout=0.6) is not None
    event.set()


async def test_put_leader_down_is_retried_and_succeeds_with_the_next_leader(
    cluster: FakeCluster, kv: kvclient.AsyncClient
) -> None:
    """A refused connection is definite: nothing left. The write waits for the new leader and happens once."""
    await kv.put("k", "1")
    shard, old = cluster.shard_of("k"), cluster.leader_of("k")
    await old.stop()
    await noticed(kv, old.address)
    write = asyncio.create_task(kv.put("k", "2"))
    others = [node for node in cluster.nodes.values() if node is not old]
    while not any(node.calls["Put"] for node in others) and not write.done():
        await asyncio.sleep(0)
    cluster.elect(shard, others[0].name)
    result = await write
    assert result.served.node == others[0].name
    value = await kv.get("k")
    assert value is not None
    assert (value.text, value.version) == ("2", 2)


async def test_client_restarted_node_is_used_again(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """While the leader is down another node forwards; soon after it is back, operations go straight to it again."""
    await kv.put("k", "1")
    leader = cluster.leader_of("k")
    await leader.stop()
    await noticed(kv, leader.address)
    with pytest.raises(errors.Unavailable) as caught:  # Without a leader, or a connection: as the last node says.
        await kv.put("k", "2", timeout=0.5)
    assert caught.value.definite
    assert caught.value.attempts > 1
    await leader.start()
    served = leader.calls["Put"]
    deadline = asyncio.get_running_loop().time() + 5
    while leader.calls["Put"] == served:
        await kv.put("k", "3")
        assert asyncio.get_running_loop().time() < deadline


async def test_batch_partial_refusal_retries_only_what_was_refused(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """One operation of a batch is refused: it alone is tried again."""
    for node in cluster.nodes.values():
        node.refusals.append((lambda kind, key: key == b"k3", NO_LEADER))
    batch = kv.batch()
    for number in range(6):
        batch.put(f"k{number}", "v")
    results = await batch.run()
    assert all(isinstance(result, kvclient.PutResult) for result in results)
    assert [item.version async for item in kv.range(prefix="k")] == [1] * 6


async def test_batch_answer_lost_only_eventual_writes_are_unknown(cluster: FakeCluster) -> None:
    """A lost answer to a batch means different things for its members: reads and strong writes are repeated."""
    async with FakeCluster(nodes=1) as single, kvclient.connect(single.uri) as kv:
        node = single.nodes["n1"]
        node.faults.append(Fault(lose_answer=True))
        batch = kv.batch().get("a").put("b", "v").put("c", "v", consistency="eventual")
        read, written, eventual = await batch.run()
        assert read is None
        assert isinstance(written, kvclient.PutResult)
        assert isinstance(eventual, errors.OutcomeUnknown)
        assert node.batch_sizes == [3, 2]
        value = await kv.get("b")
        assert value is not None
        assert value.version == 1


async def test_close_with_operations_under_way_fails_them_and_does_not_hang(
    cluster: FakeCluster, kv: kvclient.AsyncClient
) -> None:
    """Closing ends what waits: definite before it was sent, unknown for a write after; never a cancellation."""
    leader = cluster.leader_of("k")
    leader.faults.extend(Fault(stall=asyncio.Event()) for _ in range(2))
    tasks = [asyncio.create_task(kv.put("k", str(number))) for number in range(4)]
    while leader.calls["Put"] < 2:
        await asyncio.sleep(0)
    await kv.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = [type(result) for result in results]
    assert kinds == [errors.OutcomeUnknown] * 2 + [errors.ClientClosed] * 2


async def test_refresh_after_a_failure_is_one_and_nobody_waits_for_it(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """Many operations fail at once: one node is asked for its map, once; a map that never comes holds nobody up."""
    before = cluster.calls("Topology")
    for node in cluster.nodes.values():
        node.refusals.extend((lambda kind, key: True, NO_LEADER) for _ in range(10))
    await asyncio.gather(*(kv.put(f"k{number}", "v") for number in range(30)))
    assert 1 <= cluster.calls("Topology") - before <= 3
    assert kv._router.map is not None
