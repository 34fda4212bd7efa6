"""The demo's transfers, on a fake cluster: what holds, and how a cluster that breaks it is found out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest

import kvclient
from kvclient.hashing import shard_of
from kvctl import demo_transfers
from kvctl.demo_transfers import SUCCESS, TELLERS, TOTAL, Transfer, Transfers
from tests.unit.kvclient.fake_cluster import OUTCOME_UNKNOWN, FakeCluster, Fault, Refusal


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transfers one upon another."""
    monkeypatch.setattr(demo_transfers, "TELLER_PAUSE_S", 0.001)
    monkeypatch.setattr(demo_transfers, "AUDITOR_PAUSE_S", 0.001)


def play(disturb: Callable[[FakeCluster, Transfers], Awaitable[None]], timeout_s: float = 5.0) -> tuple[Transfers, bool]:
    """Transfers for a while, disturbed in their middle: what they saw, and whether the book is right in the end."""

    async def scenario() -> tuple[Transfers, bool]:
        async with FakeCluster() as cluster, kvclient.connect(f"{cluster.uri}?timeout={timeout_s}") as client:
            transfers = Transfers(client)
            await transfers.open()
            running = asyncio.create_task(transfers.run())
            for _ in range(2):
                await transfers.volley()
                await disturb(cluster, transfers)
            await transfers.volley()
            transfers.stop()
            await running
            for node in cluster.nodes.values():
                node.faults.clear()
            return transfers, await transfers.balanced()

    return asyncio.run(scenario())


def reports(transfers: Transfers) -> set[str]:
    """What the teller was told."""
    return {transfer.reported for transfer in transfers.book}


async def nothing(cluster: FakeCluster, transfers: Transfers) -> None:
    """No disturbance."""


def test_transfers_between_two_shards_keep_the_sum() -> None:
    """The accounts of a pair are on different shards, every audit sees the opening sum, and the books are right."""
    transfers, balanced = play(nothing)
    assert len(transfers.pairs) == len({pair.keys for pair in transfers.pairs}) == TELLERS
    assert all(
        shard_of(first.encode(), 4) != shard_of(second.encode(), 4) for first, second in (p.keys for p in transfers.pairs)
    )
    assert transfers.audits
    assert (transfers.wrong_sums, reports(transfers), balanced) == ([], {SUCCESS}, True)


def test_volley_that_waited_too_long_waits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows a volley finds transfers under way, also where all had ended before the wait was over."""

    async def scenario() -> None:
        async with FakeCluster() as cluster, kvclient.connect(cluster.uri) as client:
            transfers = Transfers(client)
            await transfers.open()
            transfers.book += [Transfer(0.0, 2.0, SUCCESS)] * TELLERS  # Far slower than what comes: a third of it is too long.
            running = asyncio.create_task(transfers.run())
            await transfers.volley()
            called = len(transfers.book)
            transfers.stop()
            await running
            assert called >= 2 * TELLERS, "the first volley was over"
            assert len(transfers.book) > called, "the last was under way"

    monkeypatch.setattr(demo_transfers, "TELLER_PAUSE_S", 0.2)
    asyncio.run(scenario())


def test_transfer_whose_answer_is_lost_reports_success_and_happens_once() -> None:
    """The client sends it again under the same name, and the comparisons do not see its own first attempt."""

    async def lose_answers(cluster: FakeCluster, transfers: Transfers) -> None:
        for node in cluster.nodes.values():
            node.faults.append(Fault(lose_answer=True))

    transfers, balanced = play(lose_answers)
    assert (transfers.wrong_sums, reports(transfers), balanced) == ([], {SUCCESS}, True)


def test_transfer_that_is_refused_is_tried_again() -> None:
    """A conflict did nothing: the transfer goes on, and the refusal is counted."""

    async def conflict(cluster: FakeCluster, transfers: Transfers) -> None:
        while not transfers.refusals["CONFLICT"]:
            for node in cluster.nodes.values():
                node.faults.append(Fault(before=Refusal(grpc.StatusCode.ABORTED, "CONFLICT")))
            await asyncio.sleep(0.001)
        for node in cluster.nodes.values():
            node.faults.clear()

    transfers, balanced = play(conflict)
    assert transfers.refusals["CONFLICT"]
    assert (transfers.wrong_sums, reports(transfers), balanced) == ([], {SUCCESS}, True)


def test_cluster_that_moves_money_by_half_is_found_out() -> None:
    """The auditor sees another sum, and the next transfer that something was done which was not acknowledged."""

    async def rob(cluster: FakeCluster, transfers: Transfers) -> None:
        key = transfers.pairs[0].keys[0].encode()
        cluster.shards[shard_of(key, 4)].append(key, b"1", strong=True)
        while not transfers.wrong_sums:
            await asyncio.sleep(0.001)

    transfers, balanced = play(rob)
    assert TOTAL not in transfers.wrong_sums
    assert "COMPARE_FAILED" in reports(transfers)
    assert not balanced


def test_transfer_whose_outcome_stays_unknown_is_in_the_book() -> None:
    """No success was reported: the demo says so."""

    async def forget(cluster: FakeCluster, transfers: Transfers) -> None:
        for node in cluster.nodes.values():
            node.faults.extend([Fault(before=OUTCOME_UNKNOWN)] * 50)

    transfers, _ = play(forget, timeout_s=0.3)
    assert "OUTCOME_UNKNOWN" in reports(transfers)
