"""Two-phase commit in one shard's log: votes, decisions, ends, and what is remembered of them."""

from __future__ import annotations

from typing import Any

import pytest

from kvapi.v1 import kv_pb2
from kvnode import limits
from kvnode.errors import InvalidRequest, Overloaded
from kvnode.invariant import InvariantViolated
from kvnode.protocol.two_phase_commit.locks import Locks
from kvnode.protocol.two_phase_commit.participant import State
from kvnode.shard.state_machine import Decision
from kvnode.shard.transactions import End, Ended, Locked, Vote
from tests.unit.shard.machine import NOW, Compare, Machine, delete, get, part, put, ranged, txn

ONE, TWO, THREE = txn(1), txn(2), txn(3)
ABSENT = Compare(key=b"k", exists=False)


def states(machine: Machine, *txns: Any) -> list[State]:
    """What the shard knows of each, which is what a replica that reloads knows."""
    found = [machine.transactions.state_of(one) for one in txns or (ONE, TWO, THREE)]
    other = machine.reloaded()
    assert [other.transactions.state_of(one) for one in txns or (ONE, TWO, THREE)] == found
    return found


# ---- phase one ------------------------------------------------------------------------------------------------------


def test_vote_takes_the_locks_of_both_branches_and_writes_nothing() -> None:
    """Whichever branch is taken in the end."""
    machine = Machine()
    one = part(put(b"a"), get(b"r"), compare=[ABSENT], otherwise=[delete(b"b")])
    vote = machine.prepare(ONE, one)
    assert isinstance(vote, Vote)
    assert machine.transactions.locks.held(ONE) == Locks((b"a", b"b"), (b"k", b"r"))
    assert (machine.keys, machine.tombstones, states(machine, ONE)) == (0, 0, [State.PREPARED])


def test_vote_says_what_each_branch_would_answer_with_its_index_as_revision() -> None:
    """Of the state before the writes; the branch that cannot be taken is empty."""
    machine = Machine()
    machine.put(b"r", b"read")
    vote = machine.prepare(ONE, part(put(b"a"), get(b"r"), compare=[ABSENT], otherwise=[delete(b"r")]))
    assert isinstance(vote, Vote)
    assert (vote.index, vote.matched, len(vote.then), len(vote.otherwise)) == (2, True, 2, 1)
    assert (vote.then[0].put.revision, vote.then[1].get.value) == (2, b"read")
    assert (vote.otherwise[0].delete.found, vote.otherwise[0].delete.revision) == (True, 2)
    failing = machine.prepare(TWO, part(put(b"x"), compare=[Compare(key=b"y", exists=True)], otherwise=[get(b"y")]))
    assert isinstance(failing, Vote)
    assert (failing.matched, failing.then, len(failing.otherwise)) == (False, [], 1)


@pytest.mark.parametrize("reload", [False, True])
def test_vote_asked_for_again_is_the_same(reload: bool) -> None:
    """Whatever else was written since: the locks hold what it looked at."""
    machine = Machine()
    machine.put(b"r")
    one = part(put(b"a"), get(b"r"), ranged(b"p"), compare=[ABSENT], otherwise=[get(b"k")])
    first = machine.prepare(ONE, one)
    machine.put(b"other")
    machine.prepare(TWO, part(get(b"r")))
    machine = machine.reloaded() if reload else machine
    assert machine.prepare(ONE, one) == first
    assert machine.transactions.locks.held(ONE) == Locks((b"a",), (b"k", b"r"), machine.transactions.locks.held(ONE).ranges)


def test_vote_in_the_way_of_a_lock_is_none_and_takes_nothing() -> None:
    """All locks or none; the answer names all holders."""
    machine = Machine()
    machine.prepare(ONE, part(put(b"a")))
    machine.prepare(TWO, part(get(b"b")))
    result = machine.prepare(THREE, part(get(b"free"), put(b"b"), get(b"a")))
    assert isinstance(result, Locked)
    assert sorted(result.holders) == [ONE, TWO]
    assert states(machine) == [State.PREPARED, State.PREPARED, State.INIT]
    assert not machine.transactions.locks.held(THREE).reads


@pytest.mark.parametrize("write", ["put", "delete", "transact"])
def test_strong_write_in_the_way_of_a_lock_is_not_done(write: str) -> None:
    """Not even compared: the transaction may change what is compared."""
    machine = Machine()
    machine.prepare(ONE, part(get(b"k")))
    attempts = {
        "put": lambda: machine.put(if_revision=77),
        "delete": lambda: machine.delete(if_revision=77),
        "transact": lambda: machine.transact(part(put())),
    }
    assert attempts[write]() == Locked((ONE,))
    machine.decide(ONE)
    assert attempts[write]() != Locked((ONE,))


def test_vote_that_would_answer_too_much_is_refused_and_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In either branch that may be taken; of a branch that cannot be taken nothing is read."""
    machine = Machine()
    machine.put(b"large", bytes(100))
    machine.put()
    monkeypatch.setattr(limits, "TRANSACTION_RESULTS_SIZE_BYTES_MAX", 50)
    assert isinstance(machine.prepare(ONE, part(get(b"large"))), InvalidRequest)
    assert isinstance(machine.prepare(ONE, part(otherwise=[get(b"large")])), InvalidRequest)
    assert (states(machine, ONE), bool(machine.transactions.locks)) == ([State.INIT], False)
    assert isinstance(machine.prepare(ONE, part(get(b"large"), compare=[ABSENT])), Vote)


def test_votes_up_to_their_number_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused as an overload; a vote that stands may be asked for again; an end makes room."""
    monkeypatch.setattr(limits, "TRANSACTIONS_PREPARED_PER_SHARD_MAX", 2)
    machine = Machine()
    machine.prepare(ONE, part(put(b"a")))
    machine.prepare(TWO, part(put(b"b")))
    assert isinstance(machine.prepare(THREE, part(put(b"c"))), Overloaded)
    assert isinstance(machine.prepare(TWO, part(put(b"b"))), Vote)
    assert states(machine)[2] is State.INIT
    machine.resolve(ONE, commit=False)
    assert isinstance(machine.prepare(THREE, part(put(b"c"))), Vote)


def test_votes_up_to_their_size_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they stage is held in memory; what reloads counts the same, and all is given back."""
    monkeypatch.setattr(limits, "TRANSACTIONS_PREPARED_SIZE_BYTES_MAX", 1_000)
    machine = Machine()
    machine.prepare(ONE, part(put(b"a", bytes(500))))
    machine.prepare(TWO, part(put(b"b", bytes(500))))
    assert machine.transactions.size_bytes > 1_000
    machine = machine.reloaded()
    assert isinstance(machine.prepare(THREE, part(put(b"c"))), Overloaded)
    machine.decide(ONE)
    machine.resolve(TWO, commit=False)
    assert machine.transactions.size_bytes == 0
    assert isinstance(machine.prepare(THREE, part(put(b"c"))), Vote)


def test_votes_up_to_their_number_of_ranges_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write of the shard looks at all of them."""
    monkeypatch.setattr(limits, "TRANSACTION_RANGES_PER_SHARD_MAX", 2)
    machine = Machine()
    machine.prepare(ONE, part(ranged(b"a"), ranged(b"b")))
    assert isinstance(machine.prepare(TWO, part(put())), Overloaded)
    machine.decide(ONE)
    assert isinstance(machine.prepare(TWO, part(put())), Vote)


# ---- ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchor", [True, False])
@pytest.mark.parametrize(("succeeded", "key"), [(True, b"then"), (False, b"else")])
def test_committed_transaction_writes_its_branch_and_gives_its_locks_back(anchor: bool, succeeded: bool, key: bytes) -> None:
    """The revision is the vote's index, the strong index the end's: who had read between the two has not seen it."""
    machine = Machine()
    machine.prepare(ONE, part(put(b"then"), otherwise=[put(b"else")]), anchor=0 if anchor else 1)
    machine.put(b"between")
    end = machine.decide if anchor else machine.resolve
    result = end(ONE, succeeded=succeeded)
    assert isinstance(result, Decision)
    assert (result.end.committed, result.end.succeeded) == (True, succeeded)
    version = machine.version(key)
    assert version is not None
    assert (version.revision, version.create_revision, version.strong_index, version.place) == (1, 1, 3, 3)
    assert (machine.keys, bool(machine.transactions.locks), states(machine, ONE)) == (2, False, [State.COMMITTED])


@pytest.mark.parametrize("anchor", [True, False])
def test_aborted_transaction_writes_nothing_and_gives_its_locks_back(anchor: bool) -> None:
    """As if it had never been, but for its tombstone."""
    machine = Machine()
    machine.prepare(ONE, part(put()))
    (machine.decide if anchor else machine.resolve)(ONE, commit=False)
    assert (machine.value(), bool(machine.transactions.locks), states(machine, ONE)) == (None, False, [State.ABORTED])


def test_transaction_ends_with_the_decisions_stamp() -> None:
    """On every shard the same, whenever its end comes there; above what it replaces all the same."""
    machine = Machine()
    machine.put(b"newer", hlc=NOW + 100)
    machine.prepare(ONE, part(put(b"k"), put(b"newer")))
    machine.resolve(ONE, committed_at=NOW + 7, hlc=NOW + 50)
    machine.prepare(TWO, part(put(b"anchored")))
    machine.decide(TWO, hlc=NOW + 60)
    assert [machine.version(key).hlc for key in (b"k", b"newer", b"anchored")] == [NOW + 7, NOW + 101, NOW + 60]  # type: ignore[union-attr]


def test_deletion_of_a_transaction_is_collected_by_its_end_and_not_its_vote() -> None:
    """A replica may have applied the vote and hold an eventual write whose base is below the end."""
    machine = Machine()
    machine.put()
    machine.prepare(ONE, part(delete()))
    machine.put(b"between")
    machine.decide(ONE)
    version = machine.version(b"k")
    assert version is not None
    assert (version.revision, version.place) == (2, 4)
    machine.collect(3)
    assert (machine.version(b"k"), machine.tombstones) == (version, 1)
    assert machine.oldest_tombstones(9, 9) == 4
    machine.collect(4)
    assert (machine.version(b"k"), machine.tombstones) == (None, 0)


@pytest.mark.parametrize(
    ("first", "then", "committed"),
    [("commit", "abort", True), ("abort", "commit", False), ("commit", "commit", True), ("abort", "abort", False)],
)
@pytest.mark.parametrize("reload", [False, True])
def test_first_decision_in_the_anchors_log_wins(first: str, then: str, committed: bool, reload: bool) -> None:
    """Whatever is asked for later is answered with it, branch and stamp too, and writes nothing."""
    machine = Machine()
    machine.prepare(ONE, part(put(b"k", b"then"), otherwise=[put(b"k", b"else")]), participants=(0, 4))
    decided = machine.decide(ONE, commit=first == "commit", hlc=NOW + 1)
    version = machine.version(b"k")
    machine = machine.reloaded() if reload else machine
    later = machine.decide(ONE, commit=then == "commit", succeeded=False, hlc=NOW + 9)
    assert isinstance(decided, Decision)
    assert later == decided
    assert decided.end.committed is committed
    assert decided.end == (End(True, True, NOW + 1, (4,), 1) if committed else End(False, number=1))
    assert machine.version(b"k") == version


def test_anchor_asked_to_commit_without_its_own_vote_aborts() -> None:
    """Its vote was ended by a push long ago, or never came: nothing can be committed then, and a late vote meets that."""
    machine = Machine()
    decision = machine.decide(ONE)
    assert isinstance(decision, Decision)
    assert not decision.end.committed
    assert isinstance(machine.prepare(ONE, part(put())), Ended)
    assert (machine.value(), states(machine, ONE)) == (None, [State.ABORTED])


@pytest.mark.parametrize("end", ["decide", "resolve"])
def test_vote_that_comes_after_the_abort_is_refused(end: str) -> None:
    """The tombstone: the coordinator gave up while the request was on its way."""
    machine = Machine()
    getattr(machine, end)(ONE, commit=False)
    result = machine.reloaded().prepare(ONE, part(put()))
    assert isinstance(result, Ended)
    assert (result.end.committed, result.horizon) == (False, 0)
    assert machine.prepare(ONE, part(put())) == result
    assert not machine.transactions.locks


def test_vote_that_comes_after_the_commit_finds_the_end() -> None:
    """It must not take the locks a second time: nobody would give them back."""
    machine = Machine()
    machine.prepare(ONE, part(put()))
    machine.resolve(ONE)
    result = machine.prepare(ONE, part(put()))
    assert isinstance(result, Ended)
    assert (result.end.committed, bool(machine.transactions.locks)) == (True, False)


def test_end_that_comes_twice_at_a_participant_changes_nothing() -> None:
    """Not the rows, not the number of ends; what was written since stays."""
    machine = Machine()
    machine.prepare(ONE, part(put(value=b"t")))
    first = machine.resolve(ONE)
    machine.put(value=b"since")
    before = machine.transactions.ends
    assert machine.resolve(ONE) == first
    assert (machine.value(), machine.transactions.ends) == (b"since", before)


def test_commit_of_a_transaction_without_a_vote_halts() -> None:
    """A participant has nothing to write: replicas would lose data, in silence."""
    with pytest.raises(InvariantViolated, match=str(ONE)):
        Machine().resolve(ONE)


@pytest.mark.parametrize("first", [True, False])
def test_end_that_differs_from_the_first_at_a_participant_changes_nothing(first: bool) -> None:
    """It is answered with the one that stands, for whoever asked to find out: an entry must not halt every replica for ever."""
    machine = Machine()
    machine.prepare(ONE, part(put()))
    stands = machine.resolve(ONE, commit=first)
    before = machine.version(b"k")
    assert machine.resolve(ONE, commit=not first) == stands
    assert (machine.version(b"k"), machine.transactions.ends) == (before, 1)


# ---- what is remembered ---------------------------------------------------------------------------------------------


@pytest.fixture
def few_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that remembers two ends."""
    monkeypatch.setattr(limits, "TRANSACTIONS_ENDED_PER_SHARD_MAX", 2)


def end_many(machine: Machine, *starts: int) -> None:
    """Aborts as many transactions."""
    for start in starts:
        machine.resolve(txn(900 + start, start), commit=False)


@pytest.mark.usefixtures("few_ends")
def test_ends_over_their_number_move_the_horizon() -> None:
    """It is the largest start among the forgotten, and never goes back; their rows are gone, too."""
    machine = Machine()
    end_many(machine, 50, 10, 30, 60)
    assert (machine.transactions.horizon, [one.start for one in machine.transactions.ended]) == (50, [30, 60])
    end_many(machine, 70)
    assert (machine.transactions.horizon, [one.start for one in machine.transactions.ended]) == (50, [60, 70])
    other = machine.reloaded()
    assert (other.transactions.horizon, other.transactions.ended) == (50, machine.transactions.ended)
    assert sum(key[:1] == b"e" for key, _ in machine.rows()) == 2


@pytest.mark.usefixtures("few_ends")
@pytest.mark.parametrize("start", [49, 50])
def test_vote_at_or_below_the_horizon_is_refused_with_it(start: int) -> None:
    """It may have ended and be forgotten; a new attempt must start later."""
    machine = Machine()
    end_many(machine, 50, 60, 70)
    late = txn(5, start)
    for one in (machine, machine.reloaded()):
        assert one.prepare(late, part(put())) == Ended(End(False), 50)
        assert isinstance(one.prepare(txn(5, 51), part(put())), Vote)
    assert states(machine, late, txn(5, 51)) == [State.ABORTED, State.PREPARED]


@pytest.mark.usefixtures("few_ends")
def test_transaction_prepared_below_the_horizon_may_still_commit() -> None:
    """Its vote is known: what others forgot says nothing about it."""
    machine = Machine()
    machine.prepare(txn(5, 49), part(put(b"a")), anchor=1)
    machine.prepare(txn(6, 48), part(put(b"b")))
    end_many(machine, 50, 60, 70)
    machine = machine.reloaded()
    machine.resolve(txn(5, 49))
    machine.decide(txn(6, 48))
    assert (machine.value(b"a"), machine.value(b"b")) == (b"t", b"t")


@pytest.mark.usefixtures("few_ends")
@pytest.mark.parametrize("commit", [True, False])
def test_end_that_comes_for_a_forgotten_transaction_changes_nothing(commit: bool) -> None:
    """It ended here so long ago that nobody remembers how: what the anchor says is the answer."""
    machine = Machine()
    machine.prepare(ONE, part(put()))
    machine.resolve(ONE)
    machine.put(value=b"since")
    end_many(machine, 50, 60)
    ends = machine.transactions.ends
    result = machine.resolve(ONE, commit=commit)
    assert isinstance(result, Decision)
    assert (result.end.committed, machine.value(), machine.transactions.ends) == (commit, b"since", ends)


@pytest.mark.usefixtures("few_ends")
def test_decision_not_known_to_be_applied_by_all_is_kept_for_ever() -> None:
    """A participant may still ask; when all have applied it, it is forgotten in its turn."""
    machine = Machine()
    machine.prepare(ONE, part(put()), participants=(0, 3, 4))
    machine.decide(ONE)
    end_many(machine, 50, 60, 70, 80)
    machine = machine.reloaded()
    assert (list(machine.transactions.spreading), states(machine, ONE)) == ([ONE], [State.COMMITTED])
    assert machine.transactions.spreading[ONE].unresolved == (3, 4)
    machine.forget(ONE, TWO)
    assert (machine.transactions.spreading, list(machine.transactions.ended)) == ({}, [txn(980, 80), ONE])
    assert states(machine, ONE, TWO) == [State.COMMITTED, State.ABORTED]
    end_many(machine, 90, 100)
    assert states(machine, ONE) == [State.ABORTED]


@pytest.mark.usefixtures("few_ends")
@pytest.mark.parametrize("commit", [True, False])
def test_decision_about_a_forgotten_transaction_says_so(commit: bool) -> None:
    """It was committed, and all have applied it: to call it aborted would be a lie."""
    machine = Machine()
    machine.prepare(ONE, part(put()))
    machine.decide(ONE)
    machine.forget(ONE)
    end_many(machine, 50, 60)
    before = [row for row in machine.rows() if row[0][:1] in b"edp"]
    decision = machine.decide(ONE, commit=commit)
    assert isinstance(decision, Decision)
    assert (decision.forgotten, [row for row in machine.rows() if row[0][:1] in b"edp"]) == (True, before)
    machine.prepare(TWO, part(put()))
    assert not machine.decide(txn(3, 99), commit=False).forgotten  # type: ignore[attr-defined]


def test_decision_forgotten_twice_is_forgotten_once() -> None:
    """The request may be repeated."""
    machine = Machine()
    machine.prepare(ONE, part(put()))
    machine.decide(ONE)
    machine.forget(ONE)
    rows = [row for row in machine.reloaded().rows() if row[0][:1] == b"e"]
    machine.forget(ONE)
    assert [row for row in machine.rows() if row[0][:1] == b"e"] == rows
    assert len(rows) == 1


def test_transaction_with_its_anchor_alone_has_nothing_to_spread() -> None:
    """Its decision may be forgotten at once."""
    machine = Machine()
    machine.prepare(ONE, part(put()), participants=(0,))
    machine.decide(ONE)
    assert (machine.transactions.spreading, list(machine.transactions.ended)) == ({}, [ONE])


def test_response_recorded_with_a_decision_is_the_clients() -> None:
    """As it was given, whatever it says."""
    response = kv_pb2.TxnResponse(succeeded=True, transaction_id=str(ONE)).SerializeToString()
    machine = Machine()
    machine.prepare(ONE, part(put()))
    name = kv_pb2.RequestId(session=bytes(16), sequence=1, started=NOW)
    machine.decide(ONE, request=name, response=response)
    assert machine.reloaded().transact(part(), request=name) == response
