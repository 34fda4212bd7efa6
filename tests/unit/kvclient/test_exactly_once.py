"""Strong writes take effect once, however often they are sent, and say so when nobody can know."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest

import kvclient
from kvclient import Put, errors
from kvclient._request_ids import RENEWALS_MAX
from tests.unit.kvclient.fake_cluster import (
    CONFLICT,
    NO_LEADER,
    NO_SPACE,
    OUTCOME_UNKNOWN,
    OVERLOADED,
    FakeCluster,
    Fault,
    Refusal,
)
from tests.unit.kvclient.fake_transactions import expired

Write = Callable[[Any], Awaitable[Any]]


async def _through_batch(kv: Any) -> Any:
    (result,) = await kv.batch().put("k", "v").run()
    if isinstance(result, errors.KvError):
        raise result
    return result


WRITES: dict[str, Write] = {
    "put": lambda kv: kv.put("k", "v"),
    "compare_and_set": lambda kv: kv.compare_and_set("k", "v", 0),
    "batch": _through_batch,
    "session": lambda kv: kv.session().put("k", "v"),
    "session batch": lambda kv: _through_batch(kv.session()),
    "txn": lambda kv: kv.txn().then(Put("k", "v")).run(),
}
every_write = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())


def everywhere(cluster: FakeCluster, refusal: Refusal, times: int = 1_000) -> None:
    """All nodes refuse writes."""
    for node in cluster.nodes.values():
        node.refusals.extend((lambda kind, key: kind in ("put", "delete", "txn"), refusal) for _ in range(times))


def attempts_at(cluster: FakeCluster) -> int:
    """How many calls that can carry a write arrived."""
    return sum(cluster.calls(name) for name in ("Put", "Delete", "Batch", "Txn"))


async def version_of(kv: kvclient.AsyncClient, key: str = "k") -> int:
    """How often a key was written since it exists."""
    value = await kv.get(key)
    return value.version if value is not None else 0


@every_write
async def test_write_answer_lost_is_sent_again_and_happens_once(
    cluster: FakeCluster, kv: kvclient.AsyncClient, write: Write
) -> None:
    """The first attempt took effect: the retry, under the same id, gets its answer. A compare-and-set gets its success back."""
    cluster.leader_of("k").faults.append(Fault(lose_answer=True))
    await write(kv)
    first, second = cluster.request_ids
    assert first is not None
    assert first == second
    assert (len(first.session), first.sequence, first.acknowledged) == (16, 1, 0)
    assert first.started > 0
    assert await version_of(kv) == 1


async def test_delete_answer_lost_still_says_that_the_key_existed(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """The answer is the first one, not what a second deletion would find."""
    await kv.put("k", "v")
    cluster.leader_of("k").faults.append(Fault(lose_answer=True))
    assert (await kv.delete("k")).found is True


async def test_write_coalesced_carries_its_own_id() -> None:
    """Each member of a batch that coalescing made has a number of its own; reads and eventual writes have none."""
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri) as kv:
        node, event = cluster.nodes["n1"], asyncio.Event()
        node.faults.extend(Fault(stall=event) for _ in range(2))
        busy = [asyncio.ensure_future(kv.get("b")) for _ in range(2)]
        while node.calls["Get"] < 2:
            await asyncio.sleep(0)
        writes = [asyncio.ensure_future(kv.put(f"k{number}", "v")) for number in range(5)]
        eventual = asyncio.ensure_future(kv.put("e", "v", consistency="eventual"))
        for _ in range(3):
            await asyncio.sleep(0)
        event.set()
        await asyncio.gather(*busy, *writes, eventual)
        assert node.batch_sizes == [6]
        assert [one and one.sequence for one in cluster.request_ids] == [1, 2, 3, 4, 5, None]
        assert {one.acknowledged for one in cluster.request_ids if one is not None} == {0}
        await kv.put("k", "v")
        assert cluster.request_ids[-1] is not None
        assert cluster.request_ids[-1].acknowledged == 5


async def test_write_one_after_the_other_acknowledges_all_before(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """The servers keep next to nothing of a client without concurrency, failed or cancelled writes included."""
    await kv.put("k", "1")
    with pytest.raises(errors.CompareFailed):
        await kv.compare_and_set("k", "2", 99)
    cluster.leader_of("k").faults.append(Fault(stall=asyncio.Event()))
    victim = asyncio.ensure_future(kv.put("k", "3"))
    while cluster.calls("Put") < 3:
        await asyncio.sleep(0)
    victim.cancel()
    with pytest.raises(asyncio.CancelledError):
        await victim
    (refused,) = await kv.batch().put("k", "4", if_revision=99).run()
    assert isinstance(refused, errors.CompareFailed)
    await kv.txn().then(Put("k", "5")).run()
    last = cluster.request_ids[-1]
    assert last is not None
    assert (last.sequence, last.acknowledged) == (5, 4)


async def test_write_leader_frozen_takes_a_share_of_the_time_and_happens_once(
    cluster: FakeCluster, kv: kvclient.AsyncClient
) -> None:
    """The frozen leader does not eat the whole time: another node carries the write on; what thaws later changes nothing."""
    event = asyncio.Event()
    frozen = cluster.leader_of("k")
    frozen.faults.append(Fault(stall=event))
    await kv.put("k", "v", timeout=0.6)
    assert sum(node.calls["Put"] for node in cluster.nodes.values() if node is not frozen) == 1
    event.set()
    await kv.put("k", "w")
    assert await version_of(kv) == 2


async def test_write_node_stops_under_it_succeeds_with_the_next_leader(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """A real connection really breaks while the write is under way."""
    leader = cluster.leader_of("k")
    leader.faults.append(Fault(stall=asyncio.Event()))
    write = asyncio.create_task(kv.put("k", "v"))
    while not leader.calls["Put"]:
        await asyncio.sleep(0)
    cluster.elect(cluster.shard_of("k"), next(name for name in cluster.nodes if name != leader.name))
    await leader.stop()
    assert (await write).served.node != leader.name
    assert await version_of(kv) == 1


@every_write
@pytest.mark.parametrize("doubt", [Fault(lose_answer=True), Fault(before=OUTCOME_UNKNOWN)], ids=["lost", "said"])
@pytest.mark.parametrize("refusal", [NO_LEADER, OVERLOADED, NO_SPACE, CONFLICT], ids=lambda refusal: refusal.reason)
async def test_write_in_doubt_then_definite_error_is_outcome_unknown(
    cluster: FakeCluster, kv: kvclient.AsyncClient, write: Write, doubt: Fault, refusal: Refusal
) -> None:
    """What a later attempt says of itself is not true of the first, which may still take effect."""
    later = replace(refusal, retry_after_ms=60_000)  # A retry would not end in time, so the second attempt is the last.
    for node in cluster.nodes.values():
        node.refusals.append((lambda kind, key: attempts_at(cluster) > 1, later))
    cluster.leader_of("k").faults.append(doubt)
    with pytest.raises(errors.OutcomeUnknown) as caught:
        await write(kv)
    assert caught.value.definite is False
    assert caught.value.cause is not None
    assert caught.value.cause.reason == refusal.reason
    assert (caught.value.attempts, attempts_at(cluster)) == (2, 2)


@every_write
async def test_write_in_doubt_then_refused_for_a_while_goes_on_and_succeeds(
    cluster: FakeCluster, kv: kvclient.AsyncClient, write: Write
) -> None:
    """Nor do refusals, conflicts included, end it: it is tried until it gets its answer."""
    leader = cluster.leader_of("k")
    leader.faults.append(Fault(before=OUTCOME_UNKNOWN))
    for node in cluster.nodes.values():
        for refusal in (CONFLICT, NO_LEADER):
            node.refusals.append((lambda kind, key: True, refusal))
    await write(kv)
    assert await version_of(kv) == 1


async def test_write_in_doubt_then_compare_failed_is_definite(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """The first attempt's comparison failed and was recorded: the retry gets the same, and it is no doubt any more."""
    await kv.put("k", "v")
    cluster.leader_of("k").faults.append(Fault(lose_answer=True))
    with pytest.raises(errors.CompareFailed) as caught:
        await kv.compare_and_set("k", "w", 99)
    assert caught.value.definite
    cluster.leader_of("k").faults.append(Fault(before=OUTCOME_UNKNOWN))
    with pytest.raises(errors.CompareFailed) as caught:
        await kv.compare_and_set("k", "w", 99)
    assert caught.value.definite
    assert caught.value.attempts == 2


async def test_write_in_doubt_then_invalid_argument_stays_unknown(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """What is invalid may depend on the state: a transaction's reads may be too large only because it took effect."""
    invalid = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", {"field": "key"})
    cluster.leader_of("k").faults.append(Fault(before=OUTCOME_UNKNOWN))
    everywhere(cluster, invalid)
    with pytest.raises(errors.OutcomeUnknown):
        await kv.put("k", "v")


async def test_eventual_write_answer_lost_is_outcome_unknown_and_not_repeated(
    cluster: FakeCluster, kv: kvclient.AsyncClient
) -> None:
    """Without an id a second try could be a second write."""
    for node in cluster.nodes.values():
        node.faults.append(Fault(lose_answer=True))
    with pytest.raises(errors.OutcomeUnknown) as caught:
        await kv.put("k", "v", consistency="eventual")
    assert caught.value.cause is not None
    assert caught.value.cause.reason == "CONNECTION_LOST"
    assert cluster.calls("Put") == 1
    assert cluster.request_ids == [None]


@every_write
async def test_session_expired_is_renewed_with_the_clock_and_tried_again_at_once(
    cluster: FakeCluster, kv: kvclient.AsyncClient, write: Write
) -> None:
    """The servers forgot the client: it takes a new name, above their horizon, and nobody notices."""
    horizon = 77 << 40
    for shard in cluster.shards:
        shard.sessions.forget_all(horizon)
    await write(kv)
    first, second = cluster.request_ids
    assert first is not None
    assert second is not None
    assert first.session != second.session
    assert (second.sequence, second.acknowledged) == (1, 0)
    assert second.started > horizon
    assert await version_of(kv) == 1
    leader = cluster.leader_of("k")
    assert sum(leader.calls[name] for name in ("Put", "Txn")) == 2  # The node was the right one.


async def test_session_expired_many_at_once_draw_one_new_session(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """All that were under way go on under the same new name."""
    for shard in cluster.shards:
        shard.sessions.forget_all(77 << 40)
    await asyncio.gather(*(kv.put(f"k{number}", "v") for number in range(30)))
    assert len({one.session for one in cluster.request_ids if one is not None}) == 2


async def test_session_expired_again_and_again_is_told(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """Three renewals, then the error, which is definite."""
    everywhere(cluster, expired(5))
    with pytest.raises(errors.SessionExpired) as caught:
        await kv.put("k", "v")
    assert caught.value.definite
    assert caught.value.clock == 5
    assert len(cluster.request_ids) == 1 + RENEWALS_MAX


@every_write
async def test_session_expired_after_an_attempt_in_doubt_is_outcome_unknown(
    cluster: FakeCluster, kv: kvclient.AsyncClient, write: Write
) -> None:
    """The first attempt took effect and was forgotten: under another name it would be written twice."""
    cluster.leader_of("k").faults.append(Fault(before=OUTCOME_UNKNOWN))
    everywhere(cluster, expired(5))
    with pytest.raises(errors.OutcomeUnknown) as caught:
        await write(kv)
    assert isinstance(caught.value.cause, errors.SessionExpired)
    assert len({one.session for one in cluster.request_ids if one is not None}) == 1


@pytest.mark.parametrize("clock", ["", "-1", "nonsense", str(1 << 64), "9" * 5_000])
def test_session_expired_clock_that_is_none_is_not_used(clock: str) -> None:
    """Only a 64-bit number is a clock."""
    assert errors.SessionExpired("x", metadata={"clock": clock}).clock == 0
    assert errors.SessionExpired("x").clock == 0
    assert errors.SessionExpired("x", metadata={"clock": str((1 << 64) - 1)}).clock == (1 << 64) - 1


async def test_write_answers_and_maps_teach_the_clock(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """A write starts at what answers said, the map's and others': between the first and the latest, by the time since."""
    first = cluster.hlc
    for _ in range(50):
        await kv.put("a", "v")
    assert cluster.request_ids[-1] is not None
    lowest = cluster.request_ids[-1].started
    assert 0 < lowest < first + (60_000 << 16)
    cluster.leader_of("a").faults.append(Fault(before=expired(7 << 16)))
    await kv.put("a", "v")
    assert cluster.request_ids[-1] is not None
    assert 7 <= cluster.request_ids[-1].started >> 16 < 60_007
