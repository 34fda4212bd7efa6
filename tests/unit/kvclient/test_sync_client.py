"""The client on threads: the same operations, and combining among threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import kvclient
from kvclient import errors
from tests.unit.kvclient.fake_cluster import NO_LEADER, FakeCluster, Fault, running_cluster

Running = tuple[FakeCluster, Callable[[Any], Any]]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """One cluster for this module, on a loop of its own."""
    with running_cluster() as cluster:
        yield cluster


def in_threads(count: int, work: Callable[[int], None]) -> list[BaseException]:
    """Run `work(number)` on so many threads at once; what they raised."""
    failed: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return failed


def test_sync_client_all_operations_work(running: Running) -> None:
    """A tour: what the client on asyncio does, without await."""
    cluster, _ = running
    with kvclient.connect_sync(cluster.uri) as kv:
        first = kv.put("tour/a", "1")
        assert kv.compare_and_set("tour/a", "2", first.revision).revision > first.revision
        with pytest.raises(errors.CompareFailed):
            kv.compare_and_set("tour/a", "3", first.revision)
        results = kv.batch().get("tour/a").put("tour/b", "x").get("tour/none").run()
        assert isinstance(results[0], kvclient.Value)
        assert results[2] is None
        assert [item.key for item in kv.range(prefix="tour/")] == [b"tour/a", b"tour/b"]
        assert kv.count(prefix="tour/") == 2
        eventual = kv.put("tour/c", "y", consistency="eventual")
        assert kv.operation(eventual.operation_id).state is kvclient.OperationState.APPLIED
        session = kv.session()
        session.delete("tour/c")
        assert session.get("tour/c") is None
        result = kv.txn().if_(kvclient.Key("tour/a").exists()).then(kvclient.Get("tour/a")).run()
        assert isinstance(result.results[0], kvclient.Value)
        with kv.transaction() as t:
            t.put("tour/d", t.get("tour/a") or b"")
        assert kv.session().run_in_transaction(lambda t: t.get("tour/d")) == b"2"
        assert kv.locate("tour/a").leader == cluster.leader_of("tour/a").address
    with pytest.raises(errors.ClientClosed):
        kv.get("tour/a")


def test_sync_client_misuse_is_an_invalid_argument(running: Running) -> None:
    """The same checks as on asyncio, where threads would overflow or wait for ever."""
    cluster, _ = running
    with kvclient.connect_sync(cluster.uri) as kv:
        for timeout in (float("inf"), float("nan"), 1e300, "1", 0):
            for operate in (kv.get, kv.delete, kv.locate, kv.session().get):
                with pytest.raises(errors.InvalidArgument) as caught:
                    operate("k", timeout=timeout)  # type: ignore[arg-type]
                assert caught.value.field == "timeout"
            with pytest.raises(errors.InvalidArgument):
                kv.batch().get("k").run(timeout=timeout)  # type: ignore[arg-type]
        with pytest.raises(errors.InvalidArgument):
            kv.compare_and_set("k", "v", None)  # type: ignore[arg-type]
        with pytest.raises(errors.InvalidArgument):
            kv.get("k", consistency="session")
        with pytest.raises(errors.InvalidArgument):
            kv.session("abc")  # type: ignore[arg-type]
        batch = kv.batch()
        batch.run()
        with pytest.raises(errors.InvalidArgument):
            batch.run()


def test_sync_client_threads_coalesce_and_every_one_gets_its_own_answer(running: Running) -> None:
    """Sixteen threads share one client: batches are formed, answers are not mixed up."""
    cluster, _ = running
    before = cluster.calls("Batch")

    def work(number: int) -> None:
        for turn in range(10):
            kv.put(f"thread/{number}", f"{number}.{turn}")
            value = kv.get(f"thread/{number}")
            assert value is not None
            assert value.text == f"{number}.{turn}"

    with kvclient.connect_sync(cluster.uri) as kv:
        assert in_threads(16, work) == []
        for connection in kv._connections.values():
            assert (connection._lane.in_flight, connection._lane.queued) == (0, 0)
    assert cluster.calls("Batch") > before


def test_sync_client_refused_or_answer_lost_is_retried_and_happens_once(running: Running) -> None:
    """The same rules as on asyncio."""
    cluster, _ = running
    with kvclient.connect_sync(cluster.uri) as kv:
        cluster.leader_of("k").refusals.append((lambda kind, key: True, NO_LEADER))
        version = kv.put("k", "v").revision
        cluster.leader_of("k").faults.append(Fault(lose_answer=True))
        assert kv.put("k", "w").revision == version + 1
        for node in cluster.nodes.values():
            node.faults.append(Fault(lose_answer=True))
        with pytest.raises(errors.OutcomeUnknown):
            kv.put("k", "x", consistency="eventual")
        for node in cluster.nodes.values():
            node.faults.clear()
        value = kv.get("k")
        assert value is not None
        assert value.revision == version + 2


def test_sync_client_transaction_that_lost_is_a_conflict(running: Running) -> None:
    """Leaving the `with` raises it."""
    cluster, _ = running

    def lose() -> None:
        with kv.transaction() as t:
            t.get("contended")
            kv.put("contended", "theirs")
            t.put("contended", "mine")

    with kvclient.connect_sync(cluster.uri) as kv:
        with pytest.raises(errors.Conflict):
            lose()
        value = kv.get("contended")
        assert value is not None
        assert value.text == "theirs"


def test_sync_client_threads_that_increment_in_transactions_lose_none(running: Running) -> None:
    """Plain functions; those that lose are run again; every write has a number of its own."""
    cluster, _ = running

    def increment(t: kvclient.Transaction) -> None:
        t.put("counter", str(int(t.get("counter") or 0) + 1))

    with kvclient.connect_sync(cluster.uri) as kv:
        assert in_threads(4, lambda number: kv.run_in_transaction(increment, timeout=20)) == []
        value = kv.get("counter")
        assert value is not None
        assert value.text == "4"
        session = kv._request_ids._session
        assert session is not None
        assert session.acknowledged == session._last >= 4


def test_sync_client_thread_that_gives_up_takes_nobody_along() -> None:
    """Threads that wait in the queue of a stalled node: the hurried one leaves, definite; the patient one is served."""
    with running_cluster(nodes=1) as (single, do), kvclient.connect_sync(single.uri) as kv:
        node = single.nodes["n1"]
        event = asyncio.Event()
        node.faults.extend(Fault(stall=event) for _ in range(2))
        caught: list[errors.KvError] = []

        def work(number: int) -> None:
            if number < 2:
                kv.get(f"busy{number}")
                return
            while node.calls["Get"] < 2:
                threading.Event().wait(0.001)
            if number == 2:
                with pytest.raises(errors.DeadlineExceeded) as found:
                    kv.put("hurried", "v", timeout=0.02)
                caught.append(found.value)
                do(_set(event))
            else:
                kv.put("patient", "v")

        assert in_threads(4, work) == []
        assert caught[0].definite
        assert kv.get("hurried") is None
        assert kv.get("patient") is not None


def test_sync_client_leader_down_writes_continue_with_the_next_one() -> None:
    """A stopped node costs retries, not errors, once there is a new leader."""
    with running_cluster() as (cluster, do), kvclient.connect_sync(cluster.uri) as kv:
        kv.put("k", "1")
        old = cluster.leader_of("k")
        do(old.stop())
        cluster.elect(cluster.shard_of("k"), next(node.name for node in cluster.nodes.values() if node is not old))
        assert kv.put("k", "2").served.node != old.name


async def _set(event: asyncio.Event) -> None:
    event.set()
