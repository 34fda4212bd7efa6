"""Every operation of a client is counted, once, with its outcome and its duration."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import suppress

import pytest

import kvclient
from kvclient import _statistics, errors
from kvclient._requests import Call, get_call, put_call
from kvclient._statistics import Counters
from kvclient.types import Consistency
from tests.unit.kvclient.fake_cluster import NO_LEADER, FakeCluster, Fault, running_cluster

Counts = dict[tuple[str, str], dict[str, int]]


def counts(statistics: kvclient.Statistics) -> Counts:
    """How often what ended how: (operation, level) -> outcome -> count."""
    return {
        (one.operation, str(one.consistency or "")): {outcome: durations.count for outcome, durations in one.outcomes.items()}
        for one in statistics.operations
    }


async def test_statistics_of_operations_of_every_kind_count_each_by_level_and_outcome(cluster: FakeCluster) -> None:
    """Also those of sessions, transactions and batches; what nobody sent, as a wrong argument, is none."""
    async with kvclient.connect(cluster.uri) as kv:
        assert kv.statistics().operations == ()
        await kv.put("k", "v")
        await kv.put("k", "v", consistency="eventual")
        with pytest.raises(errors.CompareFailed):
            await kv.put("k", "v", if_revision=99)
        with pytest.raises(errors.InvalidArgument):
            await kv.put("", "v")
        await kv.session().get("k")
        await kv.count(prefix="k")
        await kv.locate("k")
        async with kv.transaction() as t:
            t.put("j", await t.get("k") or b"")
        await kv.batch().get("k").put("k", "w").put("k", "x", if_revision=99).run()
        found = kv.statistics()
    assert counts(found) == {
        ("get", "SESSION"): {"OK": 1},
        ("get", "STRONG"): {"OK": 2},
        ("locate", ""): {"OK": 1},
        ("put", "EVENTUAL"): {"OK": 1},
        ("put", "STRONG"): {"OK": 2, "COMPARE_FAILED": 2},
        ("range", "STRONG"): {"OK": 1},
        ("txn", "STRONG"): {"OK": 1},
    }
    assert [(one.operation, one.consistency or 0) for one in found.operations] == sorted(
        (one.operation, one.consistency or 0) for one in found.operations
    )
    assert found.since <= found.at
    put = found.operations[-3]
    assert (put.count, put.durations.count, put.attempts, put.queue.count) == (4, 4, 4, 0)
    assert put.durations.min_us > 0


async def test_statistics_of_retried_operations_count_them_once_and_their_attempts(cluster: FakeCluster) -> None:
    """Alone, and in a batch, of which only the refused one is tried again."""
    async with kvclient.connect(cluster.uri) as kv:
        cluster.leader_of("k").refusals.append((lambda kind, key: True, NO_LEADER))
        await kv.put("k", "v")
        (put,) = kv.statistics().operations
        assert (put.count, put.attempts) == (1, 2)
        cluster.leader_of("k").refusals.append((lambda kind, key: key == b"k", NO_LEADER))
        await kv.batch().put("k", "v").put("{k}2", "v").run()
        (put,) = kv.statistics().operations
        assert (put.count, put.attempts) == (3, 5)


async def test_statistics_read_before_do_not_change(cluster: FakeCluster) -> None:
    """They are a copy: the difference of two is what was done in between."""
    async with kvclient.connect(cluster.uri) as kv:
        await kv.put("k", "v")
        before = kv.statistics()
        await kv.put("k", "v")
        after = kv.statistics()
    assert counts(before) == {("put", "STRONG"): {"OK": 1}}
    between = after.operations[0].outcomes["OK"].since(before.operations[0].outcomes["OK"])
    assert between.count == 1


async def test_statistics_of_coalesced_operations_say_how_many_waited_for_how_long() -> None:
    """Of those that could leave at once there is no time in the queue; who gave up in it has one."""
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri) as kv:
        event = asyncio.Event()
        cluster.nodes["n1"].faults.extend(Fault(stall=event) for _ in range(2))
        busy = [asyncio.create_task(kv.get("busy")) for _ in range(2)]
        while cluster.calls("Get") < 2:
            await asyncio.sleep(0)
        tasks = [asyncio.create_task(kv.put(f"k{number}", "v")) for number in range(5)]
        for _ in range(5):
            await asyncio.sleep(0)
        tasks[0].cancel()
        event.set()
        await asyncio.gather(*busy, *tasks, return_exceptions=True)
        get, put = kv.statistics().operations
    assert cluster.nodes["n1"].batch_sizes == [4]
    assert counts(kvclient.Statistics(0, 0, (get, put))) == {
        ("get", "STRONG"): {"OK": 2},
        ("put", "STRONG"): {"OK": 4, "CancelledError": 1},
    }
    assert (get.queue.count, put.queue.count) == (0, 5)
    assert put.queue.max_us <= put.durations.max_us


async def test_statistics_of_a_cancelled_batch_count_what_had_its_outcome_and_what_had_not() -> None:
    """One node answers and the other does not: all are still waited for."""
    async with FakeCluster(nodes=2, shards=2) as cluster, kvclient.connect(cluster.uri) as kv:
        cluster.elect(0, None)  # Its operations are refused, and pause.
        keys = [next(f"{shard}/{n}" for n in range(100) if cluster.shard_of(f"{shard}/{n}") == shard) for shard in range(2)]
        task = asyncio.create_task(kv.batch().put(keys[0], "v").put(keys[1], "v").run())
        while ("put", "STRONG") not in counts(kv.statistics()):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert counts(kv.statistics()) == {("put", "STRONG"): {"OK": 1, "CancelledError": 1}}


async def test_statistics_of_a_client_without_a_cluster_count_its_failures() -> None:
    """An operation that never came to an attempt has failed like any other."""
    async with FakeCluster(nodes=1) as cluster:
        uri = cluster.uri
    kv = kvclient.connect(uri)
    with pytest.raises(errors.KvError) as caught:
        await kv.get("k", timeout=0.05)
    with pytest.raises(errors.KvError):
        await kv.batch().get("k").get("j").run(timeout=0.05)
    await kv.close()
    assert counts(kv.statistics()) == {("get", "STRONG"): {caught.value.reason: 3}}
    assert kv.statistics().operations[0].attempts == 0


def test_counters_of_durations_are_microseconds_since_the_caller_began_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the time in the queue is counted apart, where there was one."""
    counters, clock = Counters(), 5_000.0
    monkeypatch.setattr(_statistics.time, "monotonic", lambda: clock + 1.5)
    for queued_s in (0.0, 0.25):
        call = get_call("k", Consistency.BOUNDED, 2.0)
        call.started, call.queued_s, call.attempts = clock, queued_s, 3
        counters.count(call, None)
    (get,) = counters.statistics().operations
    assert (get.operation, get.consistency, get.attempts) == ("get", Consistency.BOUNDED, 6)
    assert (get.durations.min_us, get.durations.max_us) == (1_500_000, 1_500_000)
    assert (get.queue.count, get.queue.sum_us) == (1, 250_000)


async def test_call_of_a_batch_begins_when_the_batch_runs(cluster: FakeCluster) -> None:
    """Not when it was added: nobody waited then."""
    async with kvclient.connect(cluster.uri) as kv:
        batch = kv.batch().put("k", "v")
        (call,) = batch._calls
        call.started = 0.0
        await batch.run()
        assert kv.statistics().operations[0].durations.max_us < 60_000_000


def test_counters_of_many_threads_lose_nothing() -> None:
    """Exact: every thread's every operation."""
    counters, interval = Counters(), sys.getswitchinterval()

    def count(call: Call) -> None:
        for _ in range(5_000):
            counters.count(call, None)

    threads = [threading.Thread(target=count, args=(put_call("k", "v", Consistency.STRONG, None, None),)) for _ in range(4)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    (put,) = counters.statistics().operations
    assert (put.count, sum(put.durations.counts.values())) == (20_000, 20_000)


def test_sync_client_statistics_count_what_all_threads_did() -> None:
    """The same on threads that share calls: none is lost, and those that waited for a slot are known."""
    with running_cluster(nodes=1) as (cluster, _), kvclient.connect_sync(cluster.uri) as kv:

        def work(number: int) -> None:
            for _ in range(10):
                kv.put(f"k{number}", "v")
                kv.get(f"k{number}", consistency="eventual")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        found = kv.statistics()
        assert counts(found) == {("get", "EVENTUAL"): {"OK": 80}, ("put", "STRONG"): {"OK": 80}}
        assert [one.attempts for one in found.operations] == [80, 80]
        assert sum(cluster.nodes["n1"].batch_sizes) <= sum(one.queue.count for one in found.operations)
