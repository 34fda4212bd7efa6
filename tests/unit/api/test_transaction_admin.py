"""The operators' view of transactions: names parsed, what is listed, and how one is ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvapi.v1 import cluster_pb2, replication_pb2, two_phase_commit_pb2
from kvnode.api.transactions import KEYS_SHOWN_MAX, TransactionAdmin, parse_transaction_id
from kvnode.errors import InvalidRequest
from kvnode.types import Origin, Txn
from tests.unit.routing.two_phase_stand import TwoPhaseStand, simulated, turns
from tests.unit.shard.machine import eventual, get, part, put, ranged, txn

ONE, TWO, THREE = txn(1, 10), txn(2, 20), txn(3, 30)
COMMITTED, ABORTED = two_phase_commit_pb2.TRANSACTION_STATE_COMMITTED, two_phase_commit_pb2.TRANSACTION_STATE_ABORTED
PREPARED, COMMITTING = two_phase_commit_pb2.TRANSACTION_STATE_PREPARED, two_phase_commit_pb2.TRANSACTION_STATE_COMMITTING


def admin(stand: TwoPhaseStand) -> TransactionAdmin:
    """Of a node with the stand's parts."""
    node: Any = SimpleNamespace(shard_map=stand.map, replicas=stand.replicas, two_phase=stand.two_phase, me=Origin("1", 1))
    return TransactionAdmin(node)


async def listed(stand: TwoPhaseStand, **fields: Any) -> list[tuple[str, int, int]]:
    """Names, shards and states, in the order of the answer."""
    response = await admin(stand).list(cluster_pb2.TransactionsRequest(**fields))
    return [(info.transaction_id, info.shard, info.state) for info in response.transactions]


# ---- names ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**64 - 1), st.binary(min_size=1, max_size=16))
def test_transactions_name_parsed_is_itself(start: int, name: bytes) -> None:
    """What is printed can be asked for."""
    assert parse_transaction_id(str(Txn(start, name))) == Txn(start, name)


@pytest.mark.parametrize(
    "text", ["", "1", "1.", ".0f", "x.0f", "1.0", "1.xx", "1.0F", "01.0f", "+1.0f", "1.0f.0f", "1. 0f", " 1.0f", "1_0.0f"]
)
def test_text_that_names_no_transaction_is_refused(text: str) -> None:
    """With the field's name, and what a name looks like."""
    with pytest.raises(InvalidRequest, match="looks like") as error:
        parse_transaction_id(text)
    assert error.value.field == "transaction_id"


# ---- listing --------------------------------------------------------------------------------------------------------


@simulated
async def test_transactions_under_way_are_listed_the_oldest_first(stand: TwoPhaseStand) -> None:
    """In each shard that has voted; one that is committed and spreads, at its anchor."""
    await stand.lock(TWO, put(b"a"))
    await stand.lock(THREE, put(b"b"))
    await stand.prepare(ONE, part(put(b"c")), shard=1)
    await stand.decide(THREE)
    assert await listed(stand) == [(str(ONE), 1, PREPARED), (str(TWO), 0, PREPARED), (str(THREE), 0, COMMITTING)]
    assert await listed(stand, shard=1) == [(str(ONE), 1, PREPARED)]
    assert await listed(stand, transaction_id=str(THREE)) == [(str(THREE), 0, COMMITTING)]


@simulated
async def test_prepared_transaction_is_listed_with_what_it_holds(stand: TwoPhaseStand) -> None:
    """Its keys, up to a number, its prefixes, the eventual writes that wait for it, and for how long it has been known."""
    await stand.prepare(ONE, part(put(b"w"), get(b"r"), ranged(b"p")), anchor=1)
    await stand.propose(sequence=replication_pb2.SequenceCommand(writes=[eventual(1, b"w"), eventual(2, b"r")]))
    stand.recovers = True
    stand.two_phase.recovery.push = lambda shard, one: None  # type: ignore[method-assign]
    stand.two_phase.recovery.step()
    await turns()
    (info,) = (await admin(stand).list(cluster_pb2.TransactionsRequest())).transactions
    assert (list(info.write_keys), list(info.read_keys), list(info.read_prefixes)) == ([b"w"], [b"r"], [b"p"])
    assert (info.anchor, list(info.participants), info.index, info.waiting_eventual) == (1, [0, 1], 2, 2)
    assert (info.leader, info.age_ms) == (True, 0)
    await stand.lock(TWO, *[put(b"x%03d" % n) for n in range(KEYS_SHOWN_MAX + 1)])
    response = await admin(stand).list(cluster_pb2.TransactionsRequest(transaction_id=str(TWO)))
    assert len(response.transactions[0].write_keys) == KEYS_SHOWN_MAX


@simulated
async def test_transactions_that_ended_are_listed_only_where_asked_for(stand: TwoPhaseStand) -> None:
    """The latest first, so many; or the one that is named."""
    for one, commit in ((ONE, True), (TWO, False), (THREE, True)):
        await stand.prepare(one, part(put(b"a")), participants=(0,))
        await stand.decide(one, commit)
    assert await listed(stand) == []
    ended = [(str(THREE), 0, COMMITTED), (str(TWO), 0, ABORTED), (str(ONE), 0, COMMITTED)]
    assert await listed(stand, ended=True) == ended
    assert await listed(stand, ended=True, limit=2) == ended[:2]
    assert await listed(stand, transaction_id=str(TWO)) == [ended[1]]


@simulated
async def test_transactions_of_an_unknown_shard_are_refused(stand: TwoPhaseStand) -> None:
    """With the field's name."""
    with pytest.raises(InvalidRequest) as error:
        await listed(stand, shard=2)
    assert error.value.field == "shard"


# ---- ending ---------------------------------------------------------------------------------------------------------


async def resolve(stand: TwoPhaseStand, one: Txn) -> int:
    """An operator ends a transaction; its state then."""
    response = await admin(stand).resolve(cluster_pb2.ResolveTransactionRequest(transaction_id=str(one)))
    return response.state


@simulated
async def test_transaction_resolved_by_hand_ends_as_its_anchor_says(stand: TwoPhaseStand) -> None:
    """Undecided: aborted; decided: applied where it was not; asked again, the same."""
    for one, key in ((ONE, b"a"), (TWO, b"b")):
        for shard in (0, 1):
            await stand.prepare(one, part(put(key)), shard=shard)
    await stand.decide(TWO)
    assert (await resolve(stand, ONE), await resolve(stand, TWO)) == (ABORTED, COMMITTED)
    assert not any(replica.machine.transactions.prepared for replica in stand.replicas.values())
    await turns()
    assert (await resolve(stand, ONE), await resolve(stand, TWO)) == (ABORTED, COMMITTED)


@simulated
async def test_transaction_that_no_replica_here_knows_is_refused(stand: TwoPhaseStand) -> None:
    """Another node may know it; nothing is decided for it."""
    with pytest.raises(InvalidRequest, match="ask another node"):
        await resolve(stand, ONE)
    assert not stand.replica.machine.transactions.ended
