"""Cancelling at any await leaves the client, and everybody else, as they were."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import kvclient
from tests.unit.kvclient.fake_cluster import NO_LEADER, FakeCluster, Fault

pytestmark = pytest.mark.usefixtures("carried_by")

STEPS = range(24)
"""Loop steps after which victims that share batches are cancelled."""


async def idle(kv: kvclient.AsyncClient) -> None:
    """Wait until no call is under way; then every slot must be free, no queue hold anything, and no
    write be outstanding."""
    while kv._background._tasks:
        await asyncio.gather(*kv._background._tasks, return_exceptions=True)
        await asyncio.sleep(0)
    for connection in kv._connections.values():
        assert (connection._lane.in_flight, connection._lane.queued) == (0, 0)
    session = kv._request_ids._session
    assert session is None or (session.acknowledged == session._last and not session._ended)


async def _copy(t: Any) -> None:
    t.put("k", await t.get("j") or b"")


async def _range(kv: Any) -> None:
    async for _ in kv.range(prefix="k"):
        pass


OPERATIONS: list[Callable[[Any], Coroutine[Any, Any, object]]] = [
    lambda kv: kv.put("k", "v"),
    lambda kv: kv.get("k"),
    lambda kv: kv.batch().put("k", "v").get("k").get("j").run(),
    lambda kv: kv.session().put("k", "v"),
    _range,
    lambda kv: kv.txn().then(kvclient.Put("k", "v")).run(),
    lambda kv: kv.run_in_transaction(_copy),
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=["put", "get", "batch", "session", "range", "txn", "transaction"])
async def test_cancel_after_any_number_of_steps_leaves_the_client_usable(
    cluster: FakeCluster, operation: Callable[[Any], Coroutine[Any, Any, object]]
) -> None:
    """One victim, cancelled a step later each time until it ends first, on a connected client and on a new one."""
    for is_connected in (True, False):
        steps, is_done = 0, False
        kv = kvclient.connect(cluster.uri)
        while not is_done:
            victim = asyncio.ensure_future(operation(kv))
            for _ in range(steps):
                await asyncio.sleep(0)
            is_done = victim.done()
            victim.cancel()
            await asyncio.gather(victim, return_exceptions=True)
            await kv.put("after", str(steps))
            await idle(kv)
            if not is_connected:
                await kv.close()
                kv = kvclient.connect(cluster.uri)
            steps += 1 if steps < 20 else 5
        await kv.close()
        assert steps > 3


async def test_cancel_one_of_many_that_coalesce_takes_nobody_along() -> None:
    """Among operations that share batches, every third is cancelled at a different moment: the others get their answers."""
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri) as kv:
        for steps in STEPS:
            tasks = [asyncio.ensure_future(kv.put(f"k{number}", str(steps))) for number in range(30)]
            for _ in range(steps):
                await asyncio.sleep(0)
            for victim in tasks[::3]:
                victim.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for number, result in enumerate(results):
                assert isinstance(result, kvclient.PutResult) or (
                    number % 3 == 0 and isinstance(result, asyncio.CancelledError)
                )
            await idle(kv)
        assert cluster.calls("Batch") > 0


async def test_cancel_while_queued_is_never_sent() -> None:
    """What is cancelled before it left does not happen."""
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri) as kv:
        node, event = cluster.nodes["n1"], asyncio.Event()
        node.faults.extend(Fault(stall=event) for _ in range(2))
        busy = [asyncio.ensure_future(kv.get("b")) for _ in range(2)]
        while node.calls["Get"] < 2:
            await asyncio.sleep(0)
        victim, other = asyncio.ensure_future(kv.put("victim", "v")), asyncio.ensure_future(kv.put("other", "v"))
        for _ in range(3):
            await asyncio.sleep(0)
        victim.cancel()
        event.set()
        await asyncio.gather(other, *busy)
        assert await kv.get("victim") is None
        assert await kv.get("other") is not None


async def test_cancel_while_pausing_before_a_retry_ends_at_once(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """The pause between attempts is an await like any other."""
    for shard in cluster.shards:
        cluster.elect(shard.number, None)
    victim = asyncio.ensure_future(kv.put("k", "v"))
    while cluster.calls("Put") < 2:
        await asyncio.sleep(0)
    victim.cancel()
    with pytest.raises(asyncio.CancelledError):
        await victim
    await idle(kv)
    assert NO_LEADER.retry_after_ms == 1


async def test_timeout_around_an_operation_is_a_cancellation_like_any_other(
    cluster: FakeCluster, kv: kvclient.AsyncClient
) -> None:
    """`asyncio.timeout` works as with any library: TimeoutError, and the call on the wire is cancelled."""
    cluster.leader_of("k").faults.append(Fault(stall=asyncio.Event()))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await kv.put("k", "v")
    await kv.put("k", "w")
    await idle(kv)
