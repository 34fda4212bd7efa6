"""A transaction inside one shard: one entry."""

from __future__ import annotations

import pytest

from kvapi.v1 import kv_pb2
from kvnode import limits
from kvnode.errors import InvalidRequest
from kvnode.shard.transactions import Locked
from tests.unit.shard.machine import NOW, Compare, Machine, delete, eventual, get, part, put, ranged, txn


def response(result: object) -> kv_pb2.TxnResponse:
    """What the client gets."""
    assert isinstance(result, bytes)
    return kv_pb2.TxnResponse.FromString(result)


def test_transaction_whose_comparisons_hold_takes_its_first_branch() -> None:
    """All its writes have one revision, that of its entry."""
    machine = Machine()
    machine.put(b"a")
    one = part(put(b"a", b"1"), put(b"b", b"2"), compare=[Compare(key=b"a", exists=True)], otherwise=[put(b"c")])
    answer = response(machine.transact(one))
    assert (answer.succeeded, [result.put.revision for result in answer.results]) == (True, [2, 2])
    versions = [machine.version(key) for key in (b"a", b"b", b"c")]
    assert [one and (one.value, one.revision, one.strong_index, one.create_revision) for one in versions] == [
        (b"1", 2, 2, 1),
        (b"2", 2, 2, 2),
        None,
    ]


def test_transaction_whose_comparison_fails_takes_its_other_branch() -> None:
    """Which is an outcome, not an error; nothing of the first branch happens."""
    machine = Machine()
    one = part(put(b"a"), compare=[Compare(key=b"a", exists=True)], otherwise=[put(b"b"), get(b"a")])
    answer = response(machine.transact(one))
    assert (answer.succeeded, len(answer.results), answer.results[1].get.found) == (False, 2, False)
    assert (machine.value(b"a"), machine.value(b"b"), machine.keys) == (None, b"t", 1)


def test_transaction_reads_the_state_before_its_writes() -> None:
    """Whatever their order: gets, ranges, and what a deletion found."""
    machine = Machine()
    machine.put(b"a", b"old")
    answer = response(machine.transact(part(put(b"a", b"new"), get(b"a"), put(b"b"), ranged(b""), delete(b"c"), put(b"d"))))
    assert answer.results[1].get.value == b"old"
    assert [(item.key, item.value) for item in answer.results[3].range.items] == [(b"a", b"old")]
    assert (answer.results[4].delete.found, machine.value(b"a"), machine.keys) == (False, b"new", 3)


def test_transaction_that_deletes_leaves_a_tombstone() -> None:
    """As a deletion does: an eventual write that has not seen it must not undo it."""
    machine = Machine()
    machine.put()
    machine.transact(part(delete(), delete(b"absent")))
    machine.sequence(eventual(1, base=1))
    assert (machine.value(), machine.tombstones, machine.keys, len(machine.superseded)) == (None, 2, 0, 1)


def test_transaction_stamps_its_writes_above_what_they_replace() -> None:
    """DESIGN 9.4."""
    machine = Machine()
    machine.put(hlc=NOW + 9)
    machine.transact(part(put(), put(b"new")), hlc=NOW)
    assert [machine.version(key).hlc for key in (b"k", b"new")] == [NOW + 10, NOW]  # type: ignore[union-attr]


def test_transaction_that_reads_too_much_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused as a whole, and the entry has its place in the log."""
    machine = Machine()
    machine.put(b"large", bytes(100))
    monkeypatch.setattr(limits, "TRANSACTION_RESULTS_SIZE_BYTES_MAX", 50)
    assert isinstance(machine.transact(part(put(), get(b"large"))), InvalidRequest)
    assert (machine.value(), machine.applied) == (None, 2)


def test_branch_not_taken_reads_what_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its results are never made."""
    machine = Machine()
    machine.put(b"large", bytes(100))
    monkeypatch.setattr(limits, "TRANSACTION_RESULTS_SIZE_BYTES_MAX", 50)
    answer = response(machine.transact(part(put(), otherwise=[get(b"large")])))
    assert (answer.succeeded, machine.value()) == (True, b"t")


def test_transaction_without_a_write_is_an_outcome() -> None:
    """It reads at its place in the log."""
    machine = Machine()
    machine.put()
    assert response(machine.transact(part(get()))).results[0].get.value == b"v"
    assert machine.version(b"k").revision == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("held", "asked", "in_the_way"),
    [
        (part(put()), part(get()), True),
        (part(put()), part(put()), True),
        (part(put()), part(ranged(b"")), True),
        (part(put()), part(compare=[Compare(key=b"k", exists=True)]), True),
        (part(put()), part(put(b"other"), otherwise=[get()]), True),
        (part(otherwise=[put()]), part(get()), True),
        (part(get()), part(put()), True),
        (part(get()), part(get()), False),
        (part(ranged(b"k")), part(delete(b"k2")), True),
        (part(ranged(b"k")), part(get(b"k2"), put(b"j")), False),
    ],
)
def test_transaction_in_the_way_of_locks_is_not_done(held: object, asked: object, in_the_way: bool) -> None:
    """Locks of both branches count, of whoever holds and of whoever asks; who waits learns for whom."""
    machine = Machine()
    machine.prepare(txn(5), held)  # type: ignore[arg-type]
    result = machine.transact(asked)  # type: ignore[arg-type]
    assert (result == Locked((txn(5),))) is in_the_way
    assert isinstance(result, bytes) is not in_the_way
    machine.decide(txn(5))
    assert isinstance(machine.transact(asked), bytes)  # type: ignore[arg-type]
