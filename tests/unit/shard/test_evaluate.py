"""What a transaction's part means for one shard: comparisons, results, locks, fingerprints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvapi.v1 import kv_pb2
from kvnode import limits
from kvnode.errors import InvalidRequest
from kvnode.protocol.two_phase_commit.locks import Interval, Locks
from kvnode.shard.evaluate import Operations, Reading, Results, locks_of, prefix_interval
from tests.unit.shard.machine import Compare, Machine, Part, delete, eventual, get, part, put, ranged, txn

EQUAL, UNEQUAL = kv_pb2.COMPARE_OPERATOR_EQUAL, kv_pb2.COMPARE_OPERATOR_NOT_EQUAL
GREATER, LESS = kv_pb2.COMPARE_OPERATOR_GREATER, kv_pb2.COMPARE_OPERATOR_LESS
UNSET = kv_pb2.COMPARE_OPERATOR_UNSPECIFIED
OPERATORS = (UNSET, EQUAL, UNEQUAL, GREATER, LESS)


def matches(machine: Machine, compares: list[Compare]) -> bool:
    """Whether all hold."""
    return Reading(machine).matches(compares)


def results_of(machine: Machine, operations: Operations, revision: int) -> Results:
    """What the operations answer."""
    return Reading(machine).results(operations, revision)


def read(machine: Machine, one: Part) -> Reading:
    """Everything of a part is read."""
    reading = Reading(machine)
    reading.matches(one.compare)
    for branch in (one.then, one.otherwise):
        reading.results(branch, 0)
    return reading


def fingerprint(machine: Machine, one: Part) -> int:
    """Of everything that the part looks at."""
    return read(machine, one).fingerprint


@pytest.fixture
def machine() -> Machine:
    """Key "k" has the value "m" at revision 2, "deleted" is deleted, "absent" was never there."""
    made = Machine()
    made.put(b"deleted")
    made.put(b"k", b"m")
    made.delete(b"deleted")
    return made


@pytest.mark.parametrize(
    ("operand", "holding"),
    [
        ({"value": b"m"}, (UNSET, EQUAL)),
        ({"value": b"a"}, (UNEQUAL, GREATER)),
        ({"value": b"z"}, (UNEQUAL, LESS)),
        ({"value": b""}, (UNEQUAL, GREATER)),
        ({"value": b"m\0"}, (UNEQUAL, LESS)),
        ({"revision": 2}, (UNSET, EQUAL)),
        ({"revision": 1}, (UNEQUAL, GREATER)),
        ({"revision": 3}, (UNEQUAL, LESS)),
        ({"revision": 0}, (UNEQUAL, GREATER)),
        ({"exists": True}, (UNSET, EQUAL)),
        ({"exists": False}, (UNEQUAL,)),
    ],
)
def test_comparison_of_a_present_key_holds_by_its_operator(
    machine: Machine, operand: dict[str, object], holding: tuple[int, ...]
) -> None:
    """Bytes in byte order, revisions as numbers; without an operator: equal."""
    operators = OPERATORS if "exists" not in operand else (UNSET, EQUAL, UNEQUAL)
    found = [one for one in operators if matches(machine, [Compare(key=b"k", operator=one, **operand)])]
    assert tuple(found) == holding


@pytest.mark.parametrize("key", [b"deleted", b"absent"])
@pytest.mark.parametrize(
    ("operand", "holding"),
    [
        ({"value": b""}, (UNEQUAL,)),
        ({"value": b"m"}, (UNEQUAL,)),
        ({"revision": 0}, (UNSET, EQUAL)),
        ({"revision": 3}, (UNEQUAL, LESS)),
        ({"exists": True}, (UNEQUAL,)),
        ({"exists": False}, (UNSET, EQUAL)),
    ],
)
def test_comparison_of_an_absent_key_holds_by_its_operator(
    machine: Machine, key: bytes, operand: dict[str, object], holding: tuple[int, ...]
) -> None:
    """Its revision is 0, a deletion's too; it has no value, so none is equal, greater or less, not even the empty one."""
    operators = OPERATORS if "exists" not in operand else (UNSET, EQUAL, UNEQUAL)
    assert tuple(one for one in operators if matches(machine, [Compare(key=key, operator=one, **operand)])) == holding


def test_comparisons_hold_only_together(machine: Machine) -> None:
    """None holds, too."""
    holds, fails = Compare(key=b"k", revision=2), Compare(key=b"k", exists=False)
    assert [matches(machine, of) for of in ([], [holds], [holds, fails], [fails])] == [True, True, False, False]


# ---- results --------------------------------------------------------------------------------------------------------


def test_results_of_operations_are_in_their_order(machine: Machine) -> None:
    """Each by its kind; writes answer the revision that they will have, deletions whether the key was there."""
    operations = [put(b"k"), get(b"k"), delete(b"k"), delete(b"deleted"), get(b"deleted"), ranged(b"k")]
    results = results_of(machine, operations, 9)
    assert [one.WhichOneof("result") for one in results] == ["put", "get", "delete", "delete", "get", "range"]
    assert (results[0].put.revision, results[2].delete.revision) == (9, 9)
    found = results[1].get
    assert (found.found, found.value, found.revision, found.create_revision, found.version) == (True, b"m", 2, 2, 1)
    assert [results[2].delete.found, results[3].delete.found, results[4].get.found] == [True, False, False]
    assert [(item.key, item.value) for item in results[5].range.items] == [(b"k", b"m")]


def test_range_in_a_transaction_is_one_page_of_its_prefix(machine: Machine) -> None:
    """Live keys only, in order; the token of a page that is cut is the last key looked at."""
    for number in range(5):
        machine.put(b"r%d" % number)
    machine.delete(b"r0")
    (result,) = results_of(machine, [ranged(b"r", limit=3, keys_only=True)], 0)
    page = result.range
    assert [item.key for item in page.items] == [b"r1", b"r2", b"r3"]
    assert ([item.value for item in page.items], page.count, page.next_page_token) == ([b""] * 3, 3, b"r3")
    (whole,) = results_of(machine, [ranged(b"r", limit=4)], 0)
    assert (whole.range.count, whole.range.next_page_token) == (4, b"")


def test_range_over_many_tombstones_ends_its_page_there(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one page looks at is bounded, however little it finds."""
    monkeypatch.setattr(limits, "RANGE_ROWS_SCANNED_MAX", 2)
    for number in range(4):
        (machine.put if number == 3 else machine.delete)(b"r%d" % number)
    (result,) = results_of(machine, [ranged(b"r")], 0)
    assert (result.range.count, result.range.next_page_token) == (0, b"r1")


def test_results_larger_than_a_part_may_return_are_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together, over all operations."""
    machine.put(b"large", bytes(300))
    monkeypatch.setattr(limits, "TRANSACTION_RESULTS_SIZE_BYTES_MAX", 700)
    assert len(results_of(machine, [get(b"large")] * 2, 0)) == 2
    with pytest.raises(InvalidRequest) as refused:
        results_of(machine, [get(b"large")] * 3, 0)
    assert refused.value.field == "then"


# ---- locks ----------------------------------------------------------------------------------------------------------


def test_locks_of_a_part_are_those_of_both_branches() -> None:
    """Writes exclusively, also those that are read; comparisons and gets shared; ranges by their prefix."""
    exists = [Compare(key=key, exists=True) for key in (b"c", b"w")]
    one = part(put(b"w"), get(b"g"), ranged(b"p"), compare=exists, otherwise=[delete(b"d"), get(b"w"), ranged(b"q\xff")])
    assert locks_of(one) == Locks((b"w", b"d"), (b"c", b"g"), (Interval(b"p", b"q"), Interval(b"q\xff", b"r")))


@given(st.binary(max_size=3), st.binary(max_size=4))
def test_prefix_as_an_interval_holds_the_keys_that_begin_with_it(prefix: bytes, key: bytes) -> None:
    """Also where it ends in 0xff, or is nothing else."""
    assert prefix_interval(prefix).holds(key) == key.startswith(prefix)
    assert prefix_interval(prefix).holds(prefix + key)


# ---- fingerprints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "changes"), [(b"g", True), (b"c", True), (b"d", True), (b"p1", True), (b"p2", True), (b"w", False), (b"x", False)]
)
@pytest.mark.parametrize("kind", ["put", "delete", "eventual"])
def test_fingerprint_changes_with_what_the_part_looks_at(key: bytes, changes: bool, kind: str) -> None:
    """Whatever wrote it, also the same value, also a key that a range had not found; and with nothing else."""
    machine = Machine()
    for old in (b"g", b"c", b"d", b"w", b"p1"):
        machine.put(old)
    one = part(get(b"g"), ranged(b"p"), compare=[Compare(key=b"c", exists=True)], otherwise=[delete(b"d"), put(b"w")])
    before = fingerprint(machine, one)
    if kind == "eventual":
        machine.sequence(eventual(1, key, b"v"))
    else:
        getattr(machine, kind)(key)
    assert (fingerprint(machine, one) != before) is changes


def test_fingerprint_while_a_transaction_is_prepared_changes_at_its_end() -> None:
    """A vote changes no key; a replica that reloads finds the same."""
    machine, one = Machine(), part(get(b"g"))
    machine.put(b"g")
    before = fingerprint(machine, one)
    machine.prepare(txn(1), part(put(b"g")))
    assert fingerprint(machine, one) == fingerprint(machine.reloaded(), one) == before
    machine.decide(txn(1))
    assert fingerprint(machine, one) == fingerprint(machine.reloaded(), one) != before


@pytest.mark.parametrize("one", [part(get(b"g")), part(ranged(b"g")), part(compare=[Compare(key=b"g", exists=False)])])
def test_fingerprint_of_an_absent_key_changes_when_its_deletion_is_collected(one: Part) -> None:
    """It may have been written and deleted between two looks, and nothing but the horizon tells."""
    machine = Machine()
    before = fingerprint(machine, one)
    machine.put(b"g")
    machine.delete(b"g")
    machine.collect(machine.applied)
    assert machine.version(b"g") is None
    assert fingerprint(machine, one) != before


def test_newest_of_a_reading_is_the_latest_place_that_it_looked_at() -> None:
    """Of a transaction's write its end; of what is not remembered the collection that forgot it; of the unseen nothing."""
    machine = Machine()
    machine.delete(b"gone")
    machine.prepare(txn(1), part(put(b"g")))
    machine.put(b"h")
    machine.decide(txn(1))
    machine.put(b"unseen")
    machine.collect(1)
    for one, newest in (
        (part(), 0),
        (part(get(b"gone")), 1),
        (part(get(b"h")), 3),
        (part(get(b"h"), get(b"g")), 4),
        (part(ranged(b"g")), 4),
        (part(ranged(b"x")), 1),
        (part(compare=[Compare(key=b"h", exists=True), Compare(key=b"g", exists=True)]), 4),
    ):
        assert read(machine, one).newest == newest


def test_ranges_of_a_part_that_look_at_too_many_rows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry does so much over all its ranges: a page is cut where the rows end, a range without any is refused."""
    monkeypatch.setattr(limits, "RANGE_ROWS_SCANNED_MAX", 3)
    machine = Machine()
    for number in range(4):
        machine.put(b"r%d" % number)
    (result,) = results_of(machine, [ranged(b"r")], 0)
    assert (result.range.count, result.range.next_page_token) == (3, b"r2")
    with pytest.raises(InvalidRequest, match="3 rows"):
        results_of(machine, [ranged(b"r"), ranged(b"r")], 0)
    assert len(results_of(machine, [ranged(b"r"), ranged(b"nothing")], 0)) == 2
