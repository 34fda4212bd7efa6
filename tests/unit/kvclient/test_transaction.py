"""Optimistic transactions, and running them until they commit."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

import kvclient
from kvclient import errors
from kvclient._backend import async_ as backend
from tests.unit.kvclient.fake_cluster import CONFLICT, OUTCOME_UNKNOWN, FakeCluster, Fault


async def text_of(kv: kvclient.AsyncClient, key: str) -> str | None:
    """What a key holds."""
    value = await kv.get(key)
    return value.text if value is not None else None


async def test_transaction_commits_all_writes_at_its_end_in_one_txn(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """Nothing is visible before; the result tells what was committed."""
    await kv.put("a", "1")
    await kv.put("c", "x")
    async with kv.transaction() as t:
        balance = await t.get("a")
        assert balance == b"1"
        t.put("b", str(int(balance) + 1))
        t.delete("c")
        assert t.result is None
        assert await text_of(kv, "b") is None
    assert (await text_of(kv, "b"), await text_of(kv, "c")) == ("2", None)
    assert t.result is not None
    assert t.result.succeeded
    assert [type(result) for result in t.result.results] == [kvclient.PutResult, kvclient.DeleteResult]
    assert cluster.calls("Txn") == 1


async def test_transaction_sees_its_own_writes_and_reads_a_key_once(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """The last write of a key counts; reads of a key that overlap have one answer."""
    async with kv.transaction() as t:
        t.put("w", "1")
        t.put("w", "2")
        assert await t.get("w") == b"2"
        t.delete("w")
        assert await t.get(b"w") is None
        t.put("w", "3")
        before = cluster.calls("Get")
        assert await asyncio.gather(t.get("none"), t.get("none")) == [None, None]
        assert await t.get("none") is None
        assert cluster.calls("Get") == before + 2
    assert await text_of(kv, "w") == "3"


async def test_transaction_reads_that_overlap_have_one_answer(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """The first to end is everybody's, although the other one saw something newer."""
    event, leader = asyncio.Event(), cluster.leader_of("r")
    leader.faults.append(Fault(stall=event))

    async def lose() -> None:
        async with kv.transaction() as t:
            slow = asyncio.ensure_future(t.get("r"))
            while not leader.calls["Get"]:
                await asyncio.sleep(0)
            assert await t.get("r") is None
            await kv.put("r", "1")
            event.set()
            assert await slow is None

    with pytest.raises(errors.Conflict):
        await lose()


async def test_transaction_read_again_after_a_change_is_the_first_answer_and_a_conflict(kv: kvclient.AsyncClient) -> None:
    """One state as far as the body can see; that it was not the last one shows at the commit."""
    await kv.put("r", "1")

    async def lose() -> None:
        async with kv.transaction() as t:
            assert await t.get("r") == b"1"
            await kv.put("r", "2")
            assert await t.get("r") == b"1"
            t.put("r", "1 + 1")

    with pytest.raises(errors.Conflict):
        await lose()
    assert await text_of(kv, "r") == "2"


@pytest.mark.parametrize("change", ["write", "delete", "create"])
async def test_transaction_something_read_was_changed_is_a_conflict_and_writes_nothing(
    cluster: FakeCluster, kv: kvclient.AsyncClient, change: str
) -> None:
    """Also that it was deleted, and that what did not exist was created; it is not tried again by itself."""
    if change != "create":
        await kv.put("r", "1")
    t = kv.transaction()

    async def lose() -> None:
        async with t:
            await t.get("r")
            t.put("w", "1")
            await (kv.delete("r") if change == "delete" else kv.put("r", "1"))

    with pytest.raises(errors.Conflict) as caught:
        await lose()
    assert caught.value.definite
    assert await text_of(kv, "w") is None
    assert cluster.calls("Txn") == 1
    assert t.result is not None
    assert not t.result.succeeded


async def test_transaction_that_only_read_verifies_without_writing(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """Its reads were one state, or it is a conflict; a read-only transaction finds out."""
    await kv.put("a", "1")
    async with kv.transaction() as t:
        await t.get("a")
        await t.get("b")
    assert cluster.request_ids[-1] is None
    assert (cluster.calls("Txn"), t.result is not None) == (1, True)

    async def lose() -> None:
        async with kv.transaction() as t:
            await t.get("a")
            await kv.put("a", "2")

    with pytest.raises(errors.Conflict):
        await lose()
    async with kv.transaction() as t:
        pass
    assert (cluster.calls("Txn"), t.result) == (2, None)


async def test_transaction_body_raises_nothing_is_sent(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """Any exception passes, a cancellation too."""

    async def fail(error: BaseException) -> None:
        async with kv.transaction() as t:
            t.put("w", "1")
            raise error

    for error in (ZeroDivisionError(), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            await fail(error)
    assert cluster.calls("Txn") == 0
    assert await text_of(kv, "w") is None


async def test_transaction_outside_of_its_with_is_refused(kv: kvclient.AsyncClient) -> None:
    """Before it began, after it ended, and a second time."""
    t = kv.transaction()
    with pytest.raises(errors.InvalidArgument, match="inside `async with`"):
        t.put("k", "1")
    async with t:
        late = asyncio.ensure_future(t.get("k"))
        await asyncio.sleep(0)
    with pytest.raises(errors.InvalidArgument):
        await late  # A read that was still under way was not verified.
    for use in (lambda: t.put("k", "1"), lambda: t.delete("k")):
        with pytest.raises(errors.InvalidArgument, match="has ended"):
            use()
    with pytest.raises(errors.InvalidArgument):
        await t.get("k")
    with pytest.raises(errors.InvalidArgument):
        async with t:
            pass


async def test_transaction_wrong_argument_shows_where_it_is_written(kv: kvclient.AsyncClient) -> None:
    """Not at the commit."""
    async with kv.transaction() as t:
        for field, use in (
            ("key", lambda: t.put("", "v")),
            ("value", lambda: t.put("k", 7)),  # type: ignore[arg-type]
            ("key", lambda: t.delete("k" * 401)),
        ):
            with pytest.raises(errors.InvalidArgument) as caught:
                use()
            assert caught.value.field == field
        with pytest.raises(errors.InvalidArgument):
            await t.get("")


async def test_transaction_commit_answer_lost_is_committed_once(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """Although its own write changed what it had read: the retry is recognised."""
    await kv.put("a", "1")
    async with kv.transaction() as t:
        t.put("a", str(int(await t.get("a") or 0) + 1))
        cluster.leader_of("a").faults.append(Fault(lose_answer=True))
    assert await text_of(kv, "a") == "2"


async def test_transaction_of_a_session_is_seen_by_its_reads(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """Sessions have it too."""
    for node in cluster.nodes.values():
        node.lag = {shard.number: 0 for shard in cluster.shards if cluster.leaders[shard.number] != node.name}
    session = kv.session()
    async with session.transaction() as t:
        assert await t.get("k") is None
        t.put("k", "v")
    assert await session.run_in_transaction(lambda t: t.get("k")) == b"v"
    assert await session.get("k") is not None


# run_in_transaction


async def increment(t: kvclient.AsyncTransaction) -> int:
    """One more in "n"."""
    number = int(await t.get("n") or 0) + 1
    t.put("n", str(number))
    return number


async def test_run_in_transaction_many_at_once_lose_no_increment(kv: kvclient.AsyncClient) -> None:
    """Those that lose against another are run again, and each returns its own number."""
    numbers = await asyncio.gather(*(kv.run_in_transaction(increment) for _ in range(6)))
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]
    assert await text_of(kv, "n") == "6"


async def test_run_in_transaction_conflict_of_the_server_is_run_again_after_growing_pauses(
    cluster: FakeCluster, kv: kvclient.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new transaction each time, as the first one has ended; back-off doubles, with jitter over its upper half."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(backend, "sleep", sleep)
    cluster.leader_of("n").refusals.extend((lambda kind, key: kind == "txn", CONFLICT) for _ in range(4))
    seen: list[kvclient.AsyncTransaction] = []

    async def body(t: kvclient.AsyncTransaction) -> int:
        seen.append(t)
        return await increment(t)

    assert await kv.run_in_transaction(body) == 1
    assert len({id(t) for t in seen}) == 5
    assert len(pauses) == 4
    for number, pause in enumerate(pauses):
        assert 0.01 * 2**number <= pause <= 0.02 * 2**number


async def test_run_in_transaction_time_is_up_raises_the_last_conflict(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """Within the time given, for all of it together, and never much longer."""
    cluster.leader_of("n").refusals.extend((lambda kind, key: kind == "txn", CONFLICT) for _ in range(1_000))
    started = time.monotonic()
    with pytest.raises(errors.Conflict) as caught:
        await kv.run_in_transaction(increment, timeout=1.0)  # Attempts until 0.6 s; the next pause would be as long.
    assert time.monotonic() - started < 2
    assert caught.value.reason == "CONFLICT"
    assert cluster.calls("Txn") > 1
    cluster.leader_of("n").refusals.clear()
    cluster.leader_of("n").refusals.append((lambda kind, key: kind == "txn", replace(CONFLICT, retry_after_ms=60_000)))
    with pytest.raises(errors.Conflict):
        await kv.run_in_transaction(increment)  # At once: the pause that is asked for would outlast the time.


async def test_run_in_transaction_late_after_a_conflict_raises_the_conflict(
    cluster: FakeCluster, kv: kvclient.AsyncClient
) -> None:
    """What kept it from succeeding says more than that the time is over; without one it is the time."""
    lost = 0

    async def body(t: kvclient.AsyncTransaction) -> None:
        nonlocal lost
        lost += 1
        if lost == 2:
            for node in cluster.nodes.values():
                node.faults.extend(Fault(stall=event) for _ in range(4))
        await increment(t)

    event = asyncio.Event()
    cluster.leader_of("n").refusals.append((lambda kind, key: kind == "txn", CONFLICT))
    with pytest.raises(errors.Conflict):
        await kv.run_in_transaction(body, timeout=0.6)
    assert lost == 2
    started = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded):
        await kv.run_in_transaction(increment, timeout=0.02)
    assert time.monotonic() - started < 1
    event.set()


async def test_run_in_transaction_other_errors_pass_and_unknown_outcomes_are_not_repeated(
    cluster: FakeCluster, kv: kvclient.AsyncClient
) -> None:
    """Only a conflict is known to have changed nothing, and to be worth another run."""
    runs = 0

    async def body(t: kvclient.AsyncTransaction) -> None:
        nonlocal runs
        runs += 1
        t.put("n", "1")
        if runs == 1:
            raise ZeroDivisionError
        for node in cluster.nodes.values():
            node.faults.extend(Fault(before=OUTCOME_UNKNOWN) for _ in range(100))

    with pytest.raises(ZeroDivisionError):
        await kv.run_in_transaction(body)
    assert (runs, cluster.calls("Txn")) == (1, 0)
    with pytest.raises(errors.OutcomeUnknown):
        await kv.run_in_transaction(body, timeout=0.1)
    assert runs == 2


async def test_run_in_transaction_wrong_timeout_runs_nothing(kv: kvclient.AsyncClient) -> None:
    """Checked as everywhere."""
    with pytest.raises(errors.InvalidArgument) as caught:
        await kv.run_in_transaction(increment, timeout=0)
    assert caught.value.field == "timeout"
