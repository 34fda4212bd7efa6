"""Concurrent operations leave together."""

from __future__ import annotations

import asyncio

import pytest

import kvclient
from kvclient import errors
from kvclient._requests import VALUE_SIZE_BYTES_MAX
from tests.unit.kvclient.fake_cluster import FakeCluster, Fault


async def one_node_busy(cluster: FakeCluster, kv: kvclient.AsyncClient) -> tuple[asyncio.Event, list[asyncio.Task[object]]]:
    """Both slots of the only node taken by reads that stall until the event."""
    node, event = cluster.nodes["n1"], asyncio.Event()
    node.faults.extend(Fault(stall=event) for _ in range(2))
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(kv.get(f"busy{number}")) for number in range(2)]
    while node.calls["Get"] < 2:
        await asyncio.sleep(0)
    return event, tasks


async def test_concurrent_operations_busy_node_leave_in_one_batch() -> None:
    """While two calls are under way everything else waits, reads and writes alike, then leaves in one call, in order."""
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri) as kv:
        event, busy = await one_node_busy(cluster, kv)
        writes = [asyncio.create_task(kv.put(f"k{number}", str(number))) for number in range(20)]
        reads = [asyncio.create_task(kv.get(f"k{number}")) for number in range(20)]
        for _ in range(5):
            await asyncio.sleep(0)
        event.set()
        assert len(await asyncio.gather(*writes)) == 20
        values = await asyncio.gather(*reads)
        await asyncio.gather(*busy)
        assert [value.text for value in values if value is not None] == [str(number) for number in range(20)]
        assert cluster.nodes["n1"].batch_sizes == [40]
        assert (cluster.calls("Put"), cluster.calls("Get")) == (0, 2)


async def test_single_caller_is_never_held_back() -> None:
    """One after the other: every operation is a call of its own."""
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri) as kv:
        for _ in range(5):
            await kv.get("k")
        assert (cluster.calls("Get"), cluster.calls("Batch")) == (5, 0)


async def test_queued_operation_with_a_short_deadline_is_definite_and_never_sent() -> None:
    """What never left is certain not to have happened, and its deadline is its own, not the batch's."""
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri) as kv:
        event, busy = await one_node_busy(cluster, kv)
        hurried = asyncio.create_task(kv.put("k", "v", timeout=0.01))
        patient = asyncio.create_task(kv.put("p", "v"))
        with pytest.raises(errors.DeadlineExceeded) as caught:
            await hurried
        assert caught.value.definite
        event.set()
        await patient
        await asyncio.gather(*busy)
        assert await kv.get("k") is None


async def test_sent_operation_with_a_short_deadline_does_not_shorten_the_others() -> None:
    """One member of a batch gives up after sending: for it the outcome is unknown, the others get their answers."""
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri) as kv:
        event, busy = await one_node_busy(cluster, kv)
        held = asyncio.Event()
        cluster.nodes["n1"].faults.extend(Fault(stall=held) for _ in range(4))
        hurried = asyncio.create_task(kv.put("h", "v", timeout=0.15))
        patient = asyncio.create_task(kv.put("p", "v"))
        for _ in range(5):
            await asyncio.sleep(0)
        event.set()
        with pytest.raises(errors.OutcomeUnknown):
            await hurried
        held.set()
        assert (await patient).revision > 0
        await asyncio.gather(*busy)


async def test_large_values_do_not_share_a_batch_beyond_its_bound() -> None:
    """Ten values of 1 MiB wait: they leave in several calls, none above 4 MiB, which the server would refuse."""
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri) as kv:
        event, busy = await one_node_busy(cluster, kv)
        value = b"v" * VALUE_SIZE_BYTES_MAX
        writes = [asyncio.create_task(kv.put(f"k{number}", value)) for number in range(6)]
        for _ in range(5):
            await asyncio.sleep(0)
        event.set()
        await asyncio.gather(*writes, *busy)
        assert max(cluster.nodes["n1"].batch_sizes) == 2
        values = await asyncio.gather(*(kv.get(f"k{number}") for number in range(6)))
        assert all(found is not None and found.value == value for found in values)


async def test_batch_of_more_than_the_limit_leaves_in_several_calls() -> None:
    """The builder takes any number; the protocol's 1,024 a call is kept."""
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri) as kv:
        batch = kv.batch()
        for number in range(2_500):
            batch.put(f"k{number}", b"")
        assert len(await batch.run(timeout=60)) == 2_500
        assert sorted(cluster.nodes["n1"].batch_sizes) == [452, 1_024, 1_024]
