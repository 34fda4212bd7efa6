"""Who waits for whose locks, for how long, who goes first, and who is pushed; on the real driver, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from kvapi.v1 import replication_pb2, two_phase_commit_pb2
from kvnode import limits
from kvnode.errors import DeadlineExpired, NoLeader, Overloaded, Unavailable
from kvnode.protocol.two_phase_commit.locks import Interval, Locks
from kvnode.protocol.two_phase_commit.participant import State
from kvnode.routing.locks import ANSWER_MAX, WOUND_AFTER
from kvnode.routing.two_phase import TwoPhaseCommit
from kvnode.shard.evaluate import locks_of
from kvnode.types import Txn
from tests.unit.routing.two_phase_stand import PUSH_AFTER, TwoPhaseStand, simulated, turns
from tests.unit.shard.machine import Part, delete, get, named, part, put, ranged, txn

OLD, MIDDLE, YOUNG = txn(1, 10), txn(2, 20), txn(3, 30)
WRITE = Locks(writes=(b"k",))
PREPARED = two_phase_commit_pb2.TRANSACTION_STATE_PREPARED


def vote(stand: TwoPhaseStand, one: Txn, work: Part) -> asyncio.Task[two_phase_commit_pb2.PrepareResponse]:
    """A coordinator asks this node for its vote."""
    request = two_phase_commit_pb2.PrepareRequest(transaction=named(one), shard=0, anchor=0, participants=[0, 1], part=work)
    return asyncio.ensure_future(stand.two_phase.participants.prepare(request))


async def until_free(stand: TwoPhaseStand, wanted: Locks, seconds: float = 5.0, me: Txn | None = None) -> None:
    """Somebody who arrives now waits so long."""
    locks = stand.local.locks
    await locks.until_free(stand.replica, wanted, stand.context(seconds), me or locks.age(), me)


def proposals(stand: TwoPhaseStand, kind: str = "prepare") -> list[bytes]:
    """The transactions whose votes were proposed, in the order of the log."""
    log = stand.replica.raft.log
    commands = [replication_pb2.Command.FromString(log.entry(n).data) for n in range(1, log.last_index + 1)]
    return [getattr(one, kind).transaction.id for one in commands if one.WhichOneof("operation") == kind]


# ---- strong writes --------------------------------------------------------------------------------------------------


@simulated
async def test_write_that_waits_for_a_lock_is_told_that_the_node_stops(stand: TwoPhaseStand) -> None:
    """It is in no log, so it can go elsewhere at once; and so can one that comes then."""
    await stand.lock(OLD, get(b"k"))
    waiting = asyncio.ensure_future(until_free(stand, WRITE))
    await turns()
    stopped_at = stand.loop.time()
    stand.local.stop_serving()
    for one in (waiting, until_free(stand, WRITE)):
        with pytest.raises(Unavailable, match="is stopping"):
            await one
    assert (stand.loop.time(), stand.local.locks.waiting(0)) == (stopped_at, 0)


@simulated
async def test_strong_write_waits_until_the_lock_is_given_back(stand: TwoPhaseStand) -> None:
    """And goes on at once; while it waits it is in no log."""
    await stand.lock(OLD, get(b"k"))
    last = stand.replica.raft.log.last_index
    command = replication_pb2.Command(put=replication_pb2.PutCommand(key=b"k"))
    writing = asyncio.ensure_future(stand.local.execute(stand.replica, command, WRITE, stand.context()))
    await asyncio.sleep(2.0)
    assert (writing.done(), stand.local.locks.waiting(0), stand.replica.raft.log.last_index) == (False, 1, last)
    ended_at = stand.loop.time()
    await stand.decide(OLD)
    await writing
    assert (stand.loop.time(), stand.local.locks.waiting(0)) == (ended_at, 0)


@simulated
async def test_strong_write_past_its_deadline_names_who_had_the_lock(stand: TwoPhaseStand) -> None:
    """With the shard that can be asked what became of it, and how many more there are; in time to be heard by the caller."""
    await stand.prepare(OLD, part(get(b"k")), anchor=1)
    await stand.lock(YOUNG, get(b"k"))
    begun = stand.loop.time()
    with pytest.raises(DeadlineExpired) as error:
        await until_free(stand, WRITE, 1.5)
    assert stand.loop.time() == pytest.approx(begun + 1.5 - ANSWER_MAX)
    assert f"transaction {OLD} (its anchor is shard 1) and 1 more" in error.value.message
    assert error.value.message.endswith("nothing was stored")
    assert (error.value.definite, stand.local.locks.waiting(0)) == (True, 0)


@simulated
async def test_strong_write_pushes_nobody(stand: TwoPhaseStand) -> None:
    """It is no transaction and has no age: it waits; recovery pushes whoever holds a lock for too long."""
    stand.note_pushes()
    await stand.lock(YOUNG, put(b"k"))
    with pytest.raises(DeadlineExpired):
        await until_free(stand, WRITE, 1.0)
    assert stand.pushed == []


@simulated
async def test_waiter_at_a_node_that_leads_no_more_is_sent_away(stand: TwoPhaseStand) -> None:
    """At once: the new leader knows the locks."""
    await stand.lock(OLD, put(b"k"))
    waiting = asyncio.ensure_future(until_free(stand, WRITE, 60.0))
    await turns()
    begun = stand.loop.time()
    stand.follow("2")
    with pytest.raises(NoLeader):
        await waiting
    assert stand.loop.time() == begun


@simulated
async def test_waiter_that_goes_away_leaves_nothing_behind(stand: TwoPhaseStand) -> None:
    """Cancelled callers do not pile up."""
    await stand.lock(OLD, put(b"k"))
    waiting = asyncio.ensure_future(until_free(stand, WRITE))
    await turns()
    waiting.cancel()
    await turns()
    assert (stand.local.locks.waiting(0), stand.replica.waits._for_leader) == (0, {})


# ---- wound-wait -----------------------------------------------------------------------------------------------------


@simulated
async def test_younger_transaction_waits_for_an_older_one(stand: TwoPhaseStand) -> None:
    """As long as it may, and without a push; it votes when the older one has ended."""
    stand.note_pushes()
    await stand.lock(OLD, put(b"k"))
    voting = vote(stand, YOUNG, part(put(b"k")))
    await asyncio.sleep(PUSH_AFTER * 0.8)
    assert (voting.done(), stand.pushed, proposals(stand)) == (False, [], [OLD.id])
    await stand.decide(OLD)
    assert (await voting).state == PREPARED


@simulated
async def test_older_transaction_wounds_a_younger_one_after_a_while(stand: TwoPhaseStand) -> None:
    """Which may be about to end; then it has it pushed, and an older one in the way besides is left alone."""
    stand.note_pushes()
    await stand.lock(OLD, get(b"k"))
    await stand.lock(YOUNG, get(b"k"))
    voting = vote(stand, MIDDLE, part(put(b"k")))
    await asyncio.sleep(WOUND_AFTER * 0.9)
    assert stand.pushed == []
    await asyncio.sleep(WOUND_AFTER * 0.2)
    assert stand.pushed == [YOUNG]
    await stand.decide(YOUNG, commit=False)
    await stand.decide(OLD)
    assert (await voting).state == PREPARED


@simulated
async def test_younger_transaction_that_ends_in_time_is_not_wounded(stand: TwoPhaseStand) -> None:
    """To abort it would only be work lost."""
    stand.note_pushes()
    await stand.lock(YOUNG, put(b"k"))
    voting = vote(stand, OLD, part(put(b"k")))
    await asyncio.sleep(WOUND_AFTER / 2)
    await stand.decide(YOUNG)
    assert ((await voting).state, stand.pushed) == (PREPARED, [])


@simulated
async def test_wounded_transaction_is_aborted_by_its_anchor_and_gives_way(stand: TwoPhaseStand) -> None:
    """The whole way: pushed here, decided in shard 1's log, resolved here; what was decided already would have stood."""
    await stand.prepare(YOUNG, part(put(b"k")), shard=0, anchor=1)
    await stand.prepare(YOUNG, part(put(b"j")), shard=1, anchor=1)
    voting = vote(stand, OLD, part(put(b"k")))
    assert (await voting).state == PREPARED
    assert [stand.state(YOUNG, shard) for shard in (0, 1)] == [State.ABORTED, State.ABORTED]
    assert stand.loop.time() < 2 * WOUND_AFTER


@simulated
async def test_wounded_transaction_that_was_committed_stays_so(stand: TwoPhaseStand) -> None:
    """A push asks what was decided: it takes nothing back."""
    await stand.prepare(YOUNG, part(put(b"k", b"young")), shard=0, anchor=1)
    await stand.prepare(YOUNG, part(put(b"j")), shard=1, anchor=1)
    await stand.decide(YOUNG, shard=1)
    assert (await vote(stand, OLD, part(put(b"k"), get(b"k")))).then[1].get.value == b"young"
    assert stand.state(YOUNG) is State.COMMITTED


@simulated
async def test_transactions_that_lock_crosswise_both_end(stand: TwoPhaseStand) -> None:
    """Each has what the other wants: the younger is wounded, and there is no deadlock."""
    await stand.prepare(OLD, part(put(b"a")), shard=0)
    await stand.prepare(YOUNG, part(put(b"b")), shard=0)
    older, younger = vote(stand, OLD, part(put(b"a"))), vote(stand, txn(4, 40), part(put(b"a")))
    assert (await older).state == PREPARED
    third = vote(stand, MIDDLE, part(put(b"b")))
    assert (await third).state == PREPARED
    assert stand.state(YOUNG) is State.ABORTED
    await stand.decide(OLD)
    assert (await younger).state == PREPARED


# ---- order ----------------------------------------------------------------------------------------------------------


@simulated
async def test_oldest_waiting_transaction_goes_first(stand: TwoPhaseStand) -> None:
    """However they came: when the lock is given back the log has the oldest's vote first."""
    stand.note_pushes()
    holder = txn(9, 1)
    await stand.lock(holder, put(b"k"))
    waiting = [vote(stand, one, part(put(b"k"))) for one in (YOUNG, OLD, MIDDLE)]
    await turns()
    await stand.decide(holder)
    await turns()
    assert [task.done() for task in waiting] == [False, True, False]
    assert proposals(stand)[:2] == [holder.id, OLD.id]
    for one in (OLD, MIDDLE):
        await stand.decide(one)
        await turns()
    assert [(await task).state for task in waiting] == [PREPARED] * 3
    assert proposals(stand) == [one.id for one in (holder, OLD, MIDDLE, YOUNG)]


@simulated
async def test_strong_writes_that_wait_go_on_in_the_order_in_which_they_came(stand: TwoPhaseStand) -> None:
    """Each is as old as its arrival."""
    await stand.lock(OLD, put(b"k"))
    commands = [replication_pb2.Command(put=replication_pb2.PutCommand(key=b"k", value=b"%d" % n)) for n in range(3)]
    writes = [asyncio.ensure_future(stand.local.execute(stand.replica, one, WRITE, stand.context())) for one in commands]
    await turns()
    await stand.decide(OLD)
    revisions = [(await write).revision for write in writes]
    assert revisions == sorted(revisions)


@simulated
async def test_strong_write_that_found_a_new_lock_keeps_its_age(stand: TwoPhaseStand) -> None:
    """Its entry met a vote that came first: it waits again, and still before those who came later."""
    commands = [replication_pb2.Command(put=replication_pb2.PutCommand(key=b"k", value=b"%d" % n)) for n in range(2)]
    locking = asyncio.ensure_future(stand.lock(OLD, put(b"k")))
    await asyncio.sleep(0)
    first = asyncio.ensure_future(stand.local.execute(stand.replica, commands[0], WRITE, stand.context()))
    await locking
    second = asyncio.ensure_future(stand.local.execute(stand.replica, commands[1], WRITE, stand.context()))
    await turns()
    assert stand.local.locks.waiting(0) == 2
    await stand.decide(OLD)
    assert (await first).revision < (await second).revision


@simulated
async def test_waiters_over_their_bound_are_refused(stand: TwoPhaseStand) -> None:
    """A lock that nobody gives back must not fill the memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "LOCK_WAITERS_PER_SHARD_MAX", 1)
        await stand.lock(OLD, put(b"k"))
        waiting = asyncio.ensure_future(until_free(stand, WRITE))
        await turns()
        with pytest.raises(Overloaded):
            await until_free(stand, WRITE)
        await stand.decide(OLD)
        await waiting


# ---- claims ---------------------------------------------------------------------------------------------------------


@simulated
async def test_vote_on_its_way_through_the_log_keeps_others_from_trying(stand: TwoPhaseStand) -> None:
    """What it claims is as good as locked: others wait for it, and for what becomes of it, without an entry of their own."""
    first, second = vote(stand, OLD, part(put(b"k"))), vote(stand, YOUNG, part(put(b"k"), put(b"j")))
    assert (await first).state == PREPARED
    await turns()
    assert (second.done(), proposals(stand)) == (False, [OLD.id])
    await stand.decide(OLD)
    assert (await second).state == PREPARED


@simulated
async def test_claim_given_back_lets_the_others_go_on(stand: TwoPhaseStand) -> None:
    """A vote that was refused leaves no lock whose end would wake anybody."""
    locks, wanted = stand.local.locks, Locks(writes=(b"k",))
    with locks.claim(stand.replica, OLD, wanted):
        waiting = asyncio.ensure_future(until_free(stand, wanted, 60.0, YOUNG))
        reading = asyncio.ensure_future(until_free(stand, Locks(reads=(b"other",)), me=YOUNG))
        await turns()
        assert (waiting.done(), reading.done()) == (False, True)
    begun = stand.loop.time()
    await waiting
    assert stand.loop.time() == begun


@simulated
async def test_claim_of_the_same_transaction_twice_ends_with_the_first(stand: TwoPhaseStand) -> None:
    """A request that came twice: the log tells the two apart, and neither waits for the other."""
    locks = stand.local.locks
    with locks.claim(stand.replica, OLD, WRITE):
        await until_free(stand, WRITE, me=OLD)
        with locks.claim(stand.replica, OLD, WRITE):
            pass
        assert locks._conflicts(stand.replica, WRITE, YOUNG) == (OLD,)
    assert locks._conflicts(stand.replica, WRITE, YOUNG) == ()


# ---- reads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "what", "waits"),
    [
        (put(b"k"), b"k", True),
        (delete(b"k"), b"k", True),
        (put(b"k"), Interval(b"a", b"z"), True),
        (put(b"k"), Interval(b"a", b"k"), False),
        (put(b"k"), b"other", False),
        (get(b"k"), b"k", False),
        (ranged(b"k"), b"k", False),
    ],
)
@simulated
async def test_reader_waits_for_what_is_locked_for_writing(
    stand: TwoPhaseStand, held: object, what: bytes | Interval, waits: bool
) -> None:
    """By a vote at its index; shared locks are in no reader's way."""
    found = await stand.lock(OLD, held)  # type: ignore[arg-type]
    reading = asyncio.ensure_future(stand.local.locks.until_readable(stand.replica, what, found.index, stand.context()))
    await turns()
    assert reading.done() is not waits
    await stand.decide(OLD)
    await reading


@simulated
async def test_reader_does_not_wait_for_a_vote_above_its_index(stand: TwoPhaseStand) -> None:
    """It came later than the read: it cannot have been answered before."""
    found = await stand.lock(OLD, put(b"k"))
    for what in (b"k", Interval(b"", None)):
        await asyncio.wait_for(stand.local.locks.until_readable(stand.replica, what, found.index - 1, stand.context()), 0.01)


@simulated
async def test_reader_of_a_range_waits_for_every_writer_in_it(stand: TwoPhaseStand) -> None:
    """One that comes while it waits has a vote above its index, and is no reason to wait on."""
    await stand.lock(OLD, put(b"a"), put(b"b"))
    found = await stand.lock(YOUNG, put(b"c"))
    reading = asyncio.ensure_future(
        stand.local.locks.until_readable(stand.replica, Interval(b"a", b"z"), found.index, stand.context())
    )
    await stand.decide(OLD)
    await turns()
    await stand.lock(MIDDLE, put(b"d"))
    assert not reading.done()
    await stand.decide(YOUNG)
    await asyncio.wait_for(reading, 0.01)


@simulated
async def test_reader_past_its_deadline_names_whom_it_waited_for(stand: TwoPhaseStand) -> None:
    """The one in its way; others are not named."""
    await stand.lock(OLD, put(b"other"))
    found = await stand.lock(YOUNG, put(b"k"))
    with pytest.raises(DeadlineExpired) as error:
        await stand.local.locks.until_readable(stand.replica, b"k", found.index, stand.context(0.5))
    assert str(YOUNG) in error.value.message
    assert str(OLD) not in error.value.message


@simulated
async def test_reader_without_a_deadline_that_passed_needs_none(stand: TwoPhaseStand) -> None:
    """What is free is read, however late."""
    await stand.lock(OLD, put(b"other"))
    await stand.local.locks.until_readable(stand.replica, b"k", 99, stand.context(-1.0))


@simulated
async def test_lowest_vote_is_that_of_the_first_writer_in_the_way_of_a_read(stand: TwoPhaseStand) -> None:
    """Readers are in nobody's way; nobody: none."""
    wanted = Locks(reads=(b"a",), ranges=(Interval(b"k", b"l"),))
    assert stand.local.locks.lowest_vote(stand.replica, wanted) is None
    await stand.lock(MIDDLE, get(b"a"))
    await stand.lock(txn(9, 9), put(b"x"))
    assert stand.local.locks.lowest_vote(stand.replica, wanted) is None
    first = await stand.lock(YOUNG, put(b"k1"))
    await stand.lock(OLD, put(b"k2"))
    assert stand.local.locks.lowest_vote(stand.replica, wanted) == first.index


@pytest.mark.parametrize(("rounds", "quiet"), [(0, False), (1, True)])
@simulated
async def test_collector_waits_only_so_many_times_for_writers(stand: TwoPhaseStand, rounds: int, quiet: bool) -> None:
    """Then it leaves the field to transactions that lock; readers are in nobody's way."""
    await stand.lock(OLD, put(b"k"))
    await stand.lock(YOUNG, get(b"j"))
    wanted = locks_of(part(get(b"k"), get(b"j")))
    waiting = asyncio.ensure_future(stand.local.locks.until_quiet(stand.replica, wanted, rounds, stand.context()))
    await turns()
    await stand.decide(OLD)
    assert await waiting is quiet


@simulated
async def test_collector_past_its_deadline_says_that_it_is_locked(stand: TwoPhaseStand) -> None:
    """It does not wait for its other rounds."""
    await stand.lock(OLD, put(b"k"))
    begun = stand.loop.time()
    assert not await stand.local.locks.until_quiet(stand.replica, Locks(reads=(b"k",)), 3, stand.context(0.5))
    assert stand.loop.time() == pytest.approx(begun + 0.5)


def test_stand_of_two_shards_is_wired_as_a_node_is() -> None:
    """Pushes go to recovery: the tests above note them, or let them through."""

    @simulated
    async def look(stand: TwoPhaseStand) -> None:
        assert isinstance(stand.two_phase, TwoPhaseCommit)
        assert stand.local.locks.push == stand.two_phase.recovery.push
        assert [replica.is_leader for replica in stand.replicas.values()] == [True, True]

    look()
