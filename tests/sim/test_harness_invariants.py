"""What transactions must keep: each invariant passes whole states, and says what is wrong with others."""

from __future__ import annotations

import random

import pytest

from kvapi.v1 import kv_pb2
from kvclient.hashing import shard_of

from .history import AppliedWrite, EventualState, EventualWrite, Outcome, check_eventual_contract
from .invariants import Bank, Counters, Invariant, OnCall, Ring, Rows, State, Transfer, Versions, spread
from .recorded import GREATER, LESS, NOT_EQUAL, holds
from .serializability import Seen, Transaction


def state_of(invariant: Invariant, numbers: list[int]) -> dict[bytes, Seen]:
    """Its keys with these numbers."""
    return {
        key: Seen(b"%d#t1.%d" % (number, place), place + 1)
        for place, (key, number) in enumerate(zip(invariant.keys, numbers, strict=True))
    }


def with_keys(kind: type[Invariant], count: int) -> Invariant:
    """An invariant of so many keys."""
    invariant = kind(random.Random(1), 2)
    invariant.keys = spread(kind.prefix, count, 2)
    return invariant


def told(outcome: Outcome, succeeded: bool | None = None) -> Transaction:
    """A transaction with this answer."""
    return Transaction(0, "c1", {}, {}, {}, outcome=outcome, succeeded=succeeded)


@pytest.mark.parametrize(
    ("kind", "numbers", "is_whole"),
    [
        (Ring, [1, 2, 3, 4, 0], True),
        (Ring, [2, 4, 1, 0, 3], True),
        (Ring, [1, 0, 3, 4, 2], False),
        (Ring, [1, 2, 1, 4, 0], False),
        (Ring, [0, 1, 2, 3, 4], False),
        (Ring, [1, 2, 3, 4, -1], False),
        (Bank, [100, 100, 100, 100], True),
        (Bank, [0, 399, 1, 0], True),
        (Bank, [100, 100, 100, 99], False),
        (Bank, [-1, 201, 100, 100], False),
        (OnCall, [1, 0, 0, 1], True),
        (OnCall, [1, 1, 1, 1], True),
        (OnCall, [1, 1, 0, 0], False),
        (Counters, [7, 7], True),
        (Counters, [7, 8], False),
        (Rows, [3, 3, 3], True),
        (Rows, [3, 3, 2], False),
        (Rows, [2, 3, 3], False),
    ],
)
def test_invariant_state_is_whole_or_said_to_be_broken(kind: type[Invariant], numbers: list[int], is_whole: bool) -> None:
    """A state of all keys is judged by what its numbers mean."""
    invariant = with_keys(kind, len(numbers))
    assert (invariant.broken(state_of(invariant, numbers)) == "") == is_whole


@pytest.mark.parametrize(("kind", "shards"), [(Ring, 1), (Ring, 4), (Bank, 2), (OnCall, 2), (Counters, 4)])
def test_invariant_set_up_is_whole(kind: type[Invariant], shards: int) -> None:
    """Each begins with a whole state, on keys in neighbouring shards."""
    invariant = kind(random.Random(2), shards)
    assert invariant.broken(state_of(invariant, invariant.numbers())) == ""
    assert [shard_of(key, shards) for key in invariant.keys] == [place % shards for place in range(len(invariant.keys))]


def bank_after(records: list[Transaction]) -> tuple[Bank, dict[bytes, Seen]]:
    """A bank in which each of these moved 10 from the first account to the second, as far as balances and markers tell."""
    bank = with_keys(Bank, 2)
    assert isinstance(bank, Bank)
    for number, record in enumerate(records):
        bank.transfers.append(Transfer(b"transfer%d" % number, bank.keys[0], bank.keys[1], 10, record))
    moved = 10 * len(records)
    state = state_of(bank, [100 - moved, 100 + moved])
    state.update({transfer.marker: Seen(b"10#", 9, 1) for transfer in bank.transfers})
    return bank, state


def test_bank_transfers_acknowledged_and_unknown_pass() -> None:
    """Markers and balances agree; a transfer in doubt took place or not."""
    bank, state = bank_after([told(Outcome.OK, True), told(Outcome.UNKNOWN)])
    assert list(bank.check(state)) == []
    bank.transfers.append(Transfer(b"transfer9", *bank.keys, 10, told(Outcome.UNKNOWN)))
    assert list(bank.check({**state, b"transfer9": Seen(None, 0)})) == []


@pytest.mark.parametrize(
    ("record", "marker", "says"),
    [
        (told(Outcome.OK, True), Seen(None, 0), "is lost"),
        (told(Outcome.FAILED), Seen(b"10#", 9, 1), "definitely did not"),
        (told(Outcome.OK, False), Seen(b"10#", 9, 1), "definitely did not"),
        (told(Outcome.UNKNOWN), Seen(b"10#", 9, 2), "executed 2 times"),
        (told(Outcome.UNKNOWN), Seen(None, 0), "by the transfers"),
    ],
)
def test_bank_transfer_against_its_marker_is_found(record: Transaction, marker: Seen, says: str) -> None:
    """Lost, undead, doubled, and half executed transfers are told apart."""
    bank, state = bank_after([record])
    assert any(says in broken for broken in bank.check({**state, bank.transfers[0].marker: marker}))


@pytest.mark.parametrize(("counted", "passes"), [(1, False), (2, True), (3, True), (4, False)])
def test_counters_increments_lost_or_doubled_are_found(counted: int, passes: bool) -> None:
    """Two acknowledged increments, one in doubt, one that compared in vain: two or three."""
    counters = with_keys(Counters, 2)
    assert isinstance(counters, Counters)
    counters.increments = [
        *(told(Outcome.OK, True), told(Outcome.OK, True), told(Outcome.OK, False)),
        *(told(Outcome.UNKNOWN), told(Outcome.FAILED)),
    ]
    assert (not list(counters.check(state_of(counters, [counted, counted])))) == passes


@pytest.mark.parametrize(("version", "passes"), [(0, False), (1, True), (2, True), (3, False)])
def test_versions_write_executed_twice_is_found(version: int, passes: bool) -> None:
    """A key that was written more often than asked for, or less often than acknowledged."""
    versions = with_keys(Versions, 1)
    assert isinstance(versions, Versions)
    key = versions.keys[0]
    versions.writes = {key: [told(Outcome.OK, True), told(Outcome.UNKNOWN), told(Outcome.FAILED)]}
    state: State = {key: Seen(b"1#", 5, version)}
    assert (not list(versions.check(state))) == passes


@pytest.mark.parametrize(
    ("compare", "seen", "expected"),
    [
        (kv_pb2.Compare(value=b"1"), Seen(b"1", 5), True),
        (kv_pb2.Compare(value=b""), Seen(None, 0), False),
        (kv_pb2.Compare(value=b"1", operator=NOT_EQUAL), Seen(None, 0), True),
        (kv_pb2.Compare(value=b"1", operator=LESS), Seen(None, 0), False),
        (kv_pb2.Compare(value=b"1", operator=GREATER), Seen(b"10", 5), True),
        (kv_pb2.Compare(revision=0), Seen(None, 0), True),
        (kv_pb2.Compare(revision=6, operator=LESS), Seen(b"1", 5), True),
        (kv_pb2.Compare(exists=False), Seen(None, 0), True),
        (kv_pb2.Compare(exists=True, operator=NOT_EQUAL), Seen(b"1", 5), False),
    ],
)
def test_comparison_of_what_was_read_holds_by_the_proto(compare: kv_pb2.Compare, seen: Seen, expected: bool) -> None:
    """The simulator's own reading of kv.proto, against which the server's is checked."""
    assert holds(compare, seen) == expected


def transaction_write(revision: int, place: int, hlc: int) -> AppliedWrite:
    """What a transaction wrote: voted for at `revision`, decided at `place`."""
    return AppliedWrite(b"k", revision, hlc, True, place=place)


def eventual_write(name: str, revision: int, hlc: int, base: int) -> AppliedWrite:
    """An eventual write that took effect."""
    return AppliedWrite(b"k", revision, hlc, False, base, "n1", name)


def test_eventual_writes_that_waited_for_a_transaction_pass() -> None:
    """Two of one key take effect where the transaction ended, a third loses there against the second."""
    applied = [transaction_write(5, 9, 10), eventual_write("0.n1.1.1", 9, 11, 9), eventual_write("0.n1.1.2", 9, 12, 9)]
    outcomes = [
        EventualWrite("0.n1.1.1", b"k", True, EventualState.APPLIED, 9),
        EventualWrite("0.n2.1.1", b"k", True, EventualState.SUPERSEDED, 9, 9),
    ]
    assert check_eventual_contract(outcomes, applied) == []


def test_eventual_write_accepted_before_the_transaction_took_effect_must_lose() -> None:
    """Who had applied the vote but not the decision had not seen the transaction's write."""
    applied = [transaction_write(5, 9, 10), eventual_write("0.n1.1.1", 9, 11, 7)]
    rules = [violation.rule for violation in check_eventual_contract([], applied)]
    assert rules == ["an eventual write never undoes a strong write that it had not seen"]
