"""Transactions from the request to the answer, on one node that leads two shards; and what is left when nobody ends them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kvapi.v1 import kv_pb2, replication_pb2, two_phase_commit_pb2
from kvnode import limits
from kvnode.errors import Conflict, InvalidRequest, NotLeader, Overloaded, StaleShardMap
from kvnode.protocol.two_phase_commit.participant import State
from kvnode.routing import session
from kvnode.types import Txn
from tests.unit.routing.two_phase_stand import PUSH_AFTER, TwoPhaseStand, simulated, turns
from tests.unit.shard.machine import Compare, get, named, part, put, ranged, request, txn

ONE, TWO = txn(1, 10), txn(2, 20)
CLIENT = bytes(16)
PREPARED = two_phase_commit_pb2.TRANSACTION_STATE_PREPARED
COMMITTED, ABORTED = two_phase_commit_pb2.TRANSACTION_STATE_COMMITTED, two_phase_commit_pb2.TRANSACTION_STATE_ABORTED


def run_txn(stand: TwoPhaseStand, *then: Any, seconds: float = 5.0, **fields: Any) -> asyncio.Task[kv_pb2.TxnResponse]:
    """A transaction begins."""
    one = kv_pb2.TxnRequest(then=then, **fields)
    return asyncio.ensure_future(stand.two_phase.router.txn(one, stand.context(seconds)))


def value(stand: TwoPhaseStand, key: bytes) -> bytes | None:
    """What the key's shard has applied."""
    version = stand.replicas[stand.map.shard_of(key)].machine.version(key)
    return version.value if version else None


def is_quiet(stand: TwoPhaseStand) -> bool:
    """Whether nothing is locked, and no decision waits to be applied."""
    all_ = [replica.machine.transactions for replica in stand.replicas.values()]
    return not any(one.prepared or one.spreading for one in all_)


# ---- with two-phase commit ------------------------------------------------------------------------------------------


@simulated
async def test_transaction_over_two_shards_is_answered_at_its_decision_and_applied_by_both(stand: TwoPhaseStand) -> None:
    """In the background it is resolved and forgotten; each key has its vote's index as revision."""
    a, b = stand.key(0), stand.key(1)
    response = await run_txn(stand, put(a, b"1"), get(b), put(b, b"2"))
    assert (response.succeeded, response.results[1].get.found) == (True, False)
    await asyncio.sleep(0.5)
    assert (value(stand, a), value(stand, b), is_quiet(stand)) == (b"1", b"2", True)
    revisions = [response.results[0].put.revision, response.results[2].put.revision]
    assert revisions == [stand.replicas[n].machine.version(key).revision for n, key in enumerate((a, b))]  # type: ignore[union-attr]
    start, _, name = response.transaction_id.partition(".")
    assert stand.state(Txn(int(start), bytes.fromhex(name))) is State.COMMITTED


@simulated
async def test_transaction_whose_comparison_fails_in_one_shard_takes_the_other_branch_in_both(stand: TwoPhaseStand) -> None:
    """All comparisons of all shards must hold."""
    a, b = stand.key(0), stand.key(1)
    compare = [Compare(key=a, exists=False), Compare(key=b, exists=True)]
    response = await run_txn(stand, put(a, b"then"), compare=compare, otherwise=[put(a, b"else"), put(b, b"else")])
    await asyncio.sleep(0.5)
    assert (response.succeeded, value(stand, a), value(stand, b)) == (False, b"else", b"else")


@simulated
async def test_token_of_a_transaction_covers_every_shard_and_the_callers_own(stand: TwoPhaseStand) -> None:
    """The last one served covers all: what the session saw before, each vote, and the decision; each shard once."""
    a, b = stand.key(0), stand.key(1)
    before = kv_pb2.SessionToken(positions=[kv_pb2.SessionPosition(shard=1, revision=77)]).SerializeToString()
    response = await run_txn(stand, put(a), put(b), session=before)
    token = session.decode(response.served[-1].session)
    assert sorted(position.shard for position in token.positions) == [0, 1]
    own = session.position(token, 0)
    assert own is not None
    assert own.revision > response.results[0].put.revision
    assert session.position(token, 1).revision == 77  # type: ignore[union-attr]
    assert sorted(served.shard for served in response.served) == [0, 1]


@simulated
async def test_retry_of_a_transaction_is_answered_as_the_first(stand: TwoPhaseStand) -> None:
    """Under another name at the anchor, whose entry remembers the client's request; it changes nothing."""
    a, b = stand.key(0), stand.key(1)
    name = request(CLIENT, 1, started=1 << 16)
    first = await run_txn(stand, put(a), get(b), put(b), request=name)
    await asyncio.sleep(0.5)
    await run_txn(stand, put(a, b"since"), put(b, b"since"))
    again = await run_txn(stand, put(a), get(b), put(b), request=name)
    assert (again.results, again.transaction_id) == (first.results, first.transaction_id)
    await asyncio.sleep(0.5)
    assert (value(stand, a), value(stand, b), is_quiet(stand)) == (b"since", b"since", True)


@simulated
async def test_transactions_of_the_same_keys_end_one_after_the_other(stand: TwoPhaseStand) -> None:
    """Each reads what the one before it wrote: none is lost."""
    a, b = stand.key(0), stand.key(1)
    tasks = [run_txn(stand, get(a), get(b), put(a, b"%d" % n), put(b, b"%d" % n), seconds=30.0) for n in range(6)]
    responses = [await task for task in tasks]
    reads = [(one.results[0].get.value, one.results[1].get.value) for one in responses]
    assert all(first == second for first, second in reads)
    assert sorted(first for first, _ in reads) == sorted({b"", *(b"%d" % n for n in range(6))} - {value(stand, a)})


@simulated
async def test_transaction_that_cannot_vote_in_time_leaves_no_locks(stand: TwoPhaseStand) -> None:
    """An older one holds a key for ever: it is aborted, and tried again, until its client's time is over."""
    a, b = stand.key(0), stand.key(1)
    await stand.prepare(Txn(1, b"old"), part(put(b)), shard=1)
    with pytest.raises(Conflict) as lost:
        await run_txn(stand, put(a), put(b), seconds=2.5)
    assert "aborted" in lost.value.message
    await asyncio.sleep(1.0)
    assert (bool(stand.replica.machine.transactions.prepared), value(stand, a)) == (False, None)
    assert list(stand.replicas[1].machine.transactions.prepared) == [Txn(1, b"old")]


@simulated
async def test_transaction_whose_caller_goes_away_leaves_no_locks(stand: TwoPhaseStand) -> None:
    """Cancelled while it waits for a vote."""
    a, b = stand.key(0), stand.key(1)
    await stand.prepare(Txn(1, b"old"), part(put(b)), shard=1)
    going = run_txn(stand, put(a), put(b))
    await asyncio.sleep(0.1)
    assert stand.replica.machine.transactions.prepared
    going.cancel()
    await asyncio.sleep(1.0)
    assert not stand.replica.machine.transactions.prepared


@simulated
async def test_transaction_that_reads_too_much_is_refused_for_good(stand: TwoPhaseStand) -> None:
    """By the shard that would answer it, or by the coordinator for all together; no other attempt would mend it."""
    a, b = stand.key(0), stand.key(1)
    await run_txn(stand, put(a, bytes(400)), put(b, bytes(400)))
    await asyncio.sleep(0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "TRANSACTION_RESULTS_SIZE_BYTES_MAX", 200)
        with pytest.raises(InvalidRequest):
            await run_txn(stand, get(a), put(b))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "TRANSACTION_RESPONSE_SIZE_BYTES_MAX", 700)
        with pytest.raises(InvalidRequest):
            await run_txn(stand, get(a), get(b), put(b, b"x"))
        with pytest.raises(InvalidRequest):
            await run_txn(stand, get(a), get(b))
    await asyncio.sleep(1.0)
    assert (value(stand, b), is_quiet(stand)) == (bytes(400), True)


@simulated
async def test_transaction_below_a_shards_horizon_starts_again_above_it(stand: TwoPhaseStand) -> None:
    """Its coordinator's clock is behind: it learns where to start, once."""
    a, b = stand.key(0), stand.key(1)
    ahead = Txn(stand._clock() + (1 << 30), b"ahead")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "TRANSACTIONS_ENDED_PER_SHARD_MAX", 0)
        await stand.decide(ahead, commit=False, shard=1)
    response = await run_txn(stand, put(a), put(b))
    assert int(response.transaction_id.partition(".")[0]) > ahead.start
    await run_txn(stand, put(a), put(b))


# ---- read-only ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 2])
@simulated
async def test_read_only_transaction_writes_no_log(stand: TwoPhaseStand, shards: int) -> None:
    """In one shard or over several: no entry, no lock."""
    keys = [stand.key(shard) for shard in range(shards)]
    await run_txn(stand, *map(put, keys))
    await asyncio.sleep(0.5)
    last = [replica.raft.log.last_index for replica in stand.replicas.values()]
    response = await run_txn(stand, *map(get, keys), compare=[Compare(key=keys[-1], exists=True)])
    assert (response.succeeded, [one.get.value for one in response.results]) == (True, [b"t"] * shards)
    assert [replica.raft.log.last_index for replica in stand.replicas.values()] == last


@pytest.mark.parametrize("shards", [1, 2])
@simulated
async def test_read_only_transaction_waits_for_the_end_of_one_that_writes(stand: TwoPhaseStand, shards: int) -> None:
    """It may be committed in another shard already."""
    keys = [stand.key(shard) for shard in range(shards)]
    await stand.lock(ONE, put(keys[0], b"new"))
    reading = run_txn(stand, *map(get, keys))
    await asyncio.sleep(0.5)
    assert not reading.done()
    await stand.decide(ONE)
    assert (await reading).results[0].get.value == b"new"


@simulated
async def test_read_only_transaction_of_one_shard_sees_one_state(stand: TwoPhaseStand) -> None:
    """Its vote came after the read's index, and another write after that: both or neither."""
    a, b = stand.key(0, b"a"), stand.key(0, b"b")
    stand.answers_rounds = False
    reading = run_txn(stand, get(a), get(b))
    await turns()
    await stand.lock(ONE, put(a, b"first"))
    await stand.propose(put=replication_pb2.PutCommand(key=b, value=b"second"))
    stand.answers_rounds = True
    await asyncio.sleep(0.5)
    assert not reading.done()
    await stand.decide(ONE)
    assert [one.get.value for one in (await reading).results] == [b"first", b"second"]


@simulated
async def test_read_only_transaction_of_keys_that_change_all_the_time_takes_locks(stand: TwoPhaseStand) -> None:
    """After some collections that differ: it ends, with one state of both shards."""
    a, b = stand.key(0), stand.key(1)
    stopped = False

    async def write_on() -> None:
        number = 0
        while not stopped:
            number += 1
            await run_txn(stand, put(a, b"%d" % number), put(b, b"%d" % number))

    writing = asyncio.ensure_future(write_on())
    for _ in range(10):
        response = await run_txn(stand, get(a), get(b))
        assert response.results[0].get.value == response.results[1].get.value
    stopped = True
    await writing


# ---- participants ---------------------------------------------------------------------------------------------------


def prepare_request(one: Txn, work: Any, shard: int = 0) -> two_phase_commit_pb2.PrepareRequest:
    """A coordinator's request."""
    return two_phase_commit_pb2.PrepareRequest(transaction=named(one), shard=shard, anchor=0, participants=[0, 1], part=work)


@simulated
async def test_vote_that_stands_is_answered_again_by_a_full_shard(stand: TwoPhaseStand) -> None:
    """Its first answer was lost: what stands is the answer; only new ones are refused."""
    participants = stand.two_phase.participants
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "TRANSACTIONS_PREPARED_PER_SHARD_MAX", 1)
        first = await participants.prepare(prepare_request(ONE, part(put(b"a"))))
        with pytest.raises(Overloaded):
            await participants.prepare(prepare_request(TWO, part(put(b"b"))))
        again = await participants.prepare(prepare_request(ONE, part(put(b"a"))))
    assert (again.state, again.index) == (first.state, first.index) == (PREPARED, first.index)


@simulated
async def test_request_for_a_shard_that_is_not_led_here_names_who_leads(stand: TwoPhaseStand) -> None:
    """Or that it is not held here at all."""
    stand.follow("2")
    participants = stand.two_phase.participants
    with pytest.raises(NotLeader) as error:
        await participants.prepare(prepare_request(ONE, part(put(b"a"))))
    assert error.value.metadata["leader_name"] == "2"
    with pytest.raises(StaleShardMap):
        await participants.prepare(prepare_request(ONE, part(put(b"a")), shard=9))


@simulated
async def test_status_asked_for_says_what_the_anchor_knows_and_decides_only_with_a_push(stand: TwoPhaseStand) -> None:
    """A push where nothing is known leaves a tombstone; one where it is decided changes nothing."""
    participants = stand.two_phase.participants

    async def status(one: Txn, push: bool = False) -> State:
        asked = two_phase_commit_pb2.TransactionStatusRequest(transaction=named(one), anchor=0, push=push)
        name = two_phase_commit_pb2.TransactionState.Name((await participants.status(asked)).state)
        return State(name.removeprefix("TRANSACTION_STATE_"))

    assert await status(ONE) is State.INIT
    await stand.lock(ONE, put(b"a"))
    assert (await status(ONE), await status(ONE, push=True)) == (State.PREPARED, State.ABORTED)
    await stand.lock(TWO, put(b"a"))
    await stand.decide(TWO)
    assert (await status(TWO, push=True), await status(txn(3), push=True)) == (State.COMMITTED, State.ABORTED)
    assert stand.state(txn(3)) is State.ABORTED


@simulated
async def test_collection_of_keys_that_are_always_locked_is_a_conflict(stand: TwoPhaseStand) -> None:
    """The transaction then takes locks itself."""
    await stand.lock(ONE, put(b"k"))
    collect = two_phase_commit_pb2.CollectRequest(shard=0, part=part(get(b"k"), ranged(b"k")))
    with pytest.raises(Conflict):
        await stand.two_phase.participants.collect(collect)
    assert stand.loop.time() <= PUSH_AFTER + 0.1


# ---- recovery -------------------------------------------------------------------------------------------------------


@simulated
async def test_transaction_whose_coordinator_died_before_the_decision_is_aborted(stand: TwoPhaseStand) -> None:
    """After the push time-out, from whichever shard: the locks go everywhere."""
    a, b = stand.key(0), stand.key(1)
    await stand.prepare(ONE, part(put(a)), shard=0)
    await stand.prepare(ONE, part(put(b)), shard=1)
    stand.recovers = True
    await asyncio.sleep(PUSH_AFTER * 0.9)
    assert not is_quiet(stand)
    await asyncio.sleep(PUSH_AFTER)
    assert (is_quiet(stand), stand.state(ONE, 0), stand.state(ONE, 1)) == (True, State.ABORTED, State.ABORTED)


@simulated
async def test_transaction_whose_coordinator_died_after_the_decision_is_committed(stand: TwoPhaseStand) -> None:
    """Its anchor spreads the decision, and forgets it when all have applied it."""
    a, b = stand.key(0), stand.key(1)
    await stand.prepare(ONE, part(put(a)), shard=0)
    await stand.prepare(ONE, part(put(b)), shard=1)
    await stand.decide(ONE)
    stand.recovers = True
    await asyncio.sleep(PUSH_AFTER * 2)
    assert (is_quiet(stand), value(stand, a), value(stand, b)) == (True, b"t", b"t")


@simulated
async def test_strong_write_blocked_by_a_dead_coordinators_lock_goes_on(stand: TwoPhaseStand) -> None:
    """It waits little longer than the push time-out."""
    key = stand.key(1)
    await stand.prepare(ONE, part(put(key)), shard=1)
    stand.recovers = True
    begun = stand.loop.time()
    write = kv_pb2.PutRequest(key=key, value=b"v", consistency=kv_pb2.CONSISTENCY_STRONG)
    await stand.router.put(write, stand.context())
    assert PUSH_AFTER * 0.9 <= stand.loop.time() - begun <= PUSH_AFTER * 1.5


@simulated
async def test_transaction_ended_by_an_operator_ends_wherever_it_is_under_way(stand: TwoPhaseStand) -> None:
    """And says how."""
    for shard in (0, 1):
        await stand.prepare(ONE, part(put(stand.key(shard))), shard=shard)
        await stand.prepare(TWO, part(put(stand.key(shard, b"2"))), shard=shard)
    await stand.decide(TWO)
    assert [await stand.two_phase.recovery.end(one, 0) for one in (ONE, TWO)] == [False, True]
    assert [stand.state(one, 1) for one in (ONE, TWO)] == [State.ABORTED, State.COMMITTED]
