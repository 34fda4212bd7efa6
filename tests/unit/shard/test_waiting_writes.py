"""Eventual writes that meet a transaction's locks: they wait in the shard's queue, in order."""

from __future__ import annotations

import pytest

from kvapi.v1 import kv_pb2
from kvnode import limits
from kvnode.protocol.two_phase_commit.locks import Interval, Locks
from kvnode.shard.waiting_writes import WaitingWrites
from kvnode.types import Origin
from tests.unit.shard.machine import NOW, Machine, delete, eventual, get, part, put, ranged, txn

ONE, TWO = txn(1), txn(2)
B = Origin("b", 1)
STRONG_WRITE = kv_pb2.SUPERSEDED_REASON_STRONG_WRITE
LATER_WRITE = kv_pb2.SUPERSEDED_REASON_LATER_WRITE


def locked(*operations: object) -> Machine:
    """A machine with the operations prepared by transaction one, at index 1."""
    machine = Machine()
    machine.prepare(ONE, part(*(operations or (get(),))))  # type: ignore[arg-type]
    return machine


def test_write_of_a_locked_key_has_its_place_and_waits() -> None:
    """It is sequenced, so that it is not sent again; it has no effect before the transaction ends."""
    machine = locked()
    assert machine.sequence(eventual(1)) == [(B, 1)]
    assert (machine.sequenced[B], machine.value(), len(machine.waiting)) == (1, None, 1)
    assert (machine.waiting.has(B, 1), machine.waiting.has(B, 2), machine.placed) == (True, False, {})
    machine.decide(ONE, commit=False)
    assert (machine.value(), len(machine.waiting), machine.placed[B, 1]) == (b"e", 0, (3, b"k"))
    assert not any(key[:1] == b"w" for key, _ in machine.rows())


def test_write_of_a_free_key_does_not_wait_for_others() -> None:
    """Also behind one that waits, of the same origin."""
    machine = locked(put(b"k"))
    machine.sequence(eventual(1), eventual(2, b"free"))
    assert (machine.value(b"free"), len(machine.waiting)) == (b"e", 1)


def test_write_that_comes_twice_waits_once() -> None:
    """By its origin's watermark, as any."""
    machine = locked()
    machine.sequence(eventual(1))
    machine.sequence(eventual(1))
    assert len(machine.waiting) == 1


@pytest.mark.parametrize("operation", [put(), delete(), get(), ranged(b"k")])
def test_write_in_the_way_of_any_lock_waits(operation: object) -> None:
    """A range's keys too, also those that do not exist."""
    machine = locked(operation)
    machine.sequence(eventual(1))
    assert len(machine.waiting) == 1


def test_writes_of_one_key_take_effect_in_the_order_of_the_log() -> None:
    """By last writer wins, as they would have; all at the index of the end."""
    machine = locked()
    machine.sequence(eventual(1, value=b"1", base=0, hlc=NOW + 1))
    machine.sequence(eventual(1, value=b"old", base=0, hlc=NOW, node="c"))
    machine.sequence(eventual(2, value=b"2", base=0, hlc=NOW + 2))
    machine.decide(ONE, commit=False)
    version = machine.version(b"k")
    assert version is not None
    assert (version.value, version.revision, version.version) == (b"2", 5, 2)
    assert machine.superseded[Origin("c", 1), 1].outcome == (LATER_WRITE, 5)


def test_origins_second_write_wins_over_its_first_whatever_its_clock() -> None:
    """An origin's own order is by its numbers."""
    machine = locked()
    machine.sequence(eventual(1, value=b"1", hlc=NOW + 9))
    machine.sequence(eventual(2, value=b"2", hlc=NOW))
    machine.decide(ONE, commit=False)
    assert machine.value() == b"2"


@pytest.mark.parametrize(
    ("base", "survives"),
    [(0, False), (1, False), (2, False), (3, False), (4, True)],
)
def test_write_against_a_transactions_is_judged_by_its_end(base: int, survives: bool) -> None:
    """Its vote is at 1, its end at 4: who had applied less than the end had not seen the strong write."""
    machine = locked(put())
    machine.put(b"other")
    machine.put(b"other")
    machine.decide(ONE)
    machine.sequence(eventual(1, base=base, hlc=NOW + 5))
    assert machine.value() == (b"e" if survives else b"t")
    if not survives:
        # (What won is named by its revision, which is that of the vote.)
        assert machine.superseded[B, 1].outcome == (STRONG_WRITE, 1)


@pytest.mark.parametrize(("commit", "value"), [(True, b"t"), (False, b"e")])
def test_write_that_waited_for_a_transactions_write_loses_against_it(commit: bool, value: bytes) -> None:
    """It had not seen it, whatever its clock says; against one that was aborted it does not."""
    machine = locked(put())
    machine.sequence(eventual(1, base=1, hlc=NOW + 100))
    machine.decide(ONE, commit=commit)
    assert machine.value() == value
    assert ((B, 1) in machine.superseded) is commit


def test_write_that_waits_for_two_readers_waits_for_both() -> None:
    """Shared locks: the last one out lets it in."""
    machine = locked(get())
    machine.prepare(TWO, part(ranged(b"k")))
    machine.sequence(eventual(1))
    machine.decide(ONE)
    assert (machine.value(), len(machine.waiting)) == (None, 1)
    machine = machine.reloaded()
    machine.resolve(TWO, commit=False)
    assert (machine.value(), len(machine.waiting)) == (b"e", 0)


def test_writes_of_several_keys_leave_as_their_keys_are_free() -> None:
    """And keep their rows until then; numbers begin anew when none waits."""
    machine = locked(get(b"a"), get(b"both"))
    machine.prepare(TWO, part(get(b"b"), get(b"both")))
    for sequence, key in enumerate((b"a", b"both", b"b"), 1):
        machine.sequence(eventual(sequence, key))
    machine.decide(ONE)
    assert [machine.value(key) for key in (b"a", b"both", b"b")] == [b"e", None, None]
    machine = machine.reloaded()
    assert sorted(machine.waiting.keys()) == [b"b", b"both"]
    machine.decide(TWO)
    assert [machine.value(key) for key in (b"a", b"both", b"b")] == [b"e"] * 3
    assert machine.waiting.add(eventual(9)) == 1


def test_write_from_a_clock_far_ahead_counts_by_the_time_of_the_end() -> None:
    """The tolerated skew is above the leader's time when it takes effect."""
    skew = limits.CLOCK_SKEW_MS_MAX << 16
    machine = locked()
    machine.sequence(eventual(1, hlc=NOW * 2))
    machine.decide(ONE, commit=False, hlc=NOW + 7)
    version = machine.version(b"k")
    assert version is not None
    assert version.hlc == NOW + 7 + skew


def test_deletion_that_waited_leaves_one_tombstone() -> None:
    """It is collected by the index at which it took effect."""
    machine = locked()
    machine.put(b"x")
    machine.sequence(eventual(1, value=None))
    machine.decide(ONE, commit=False)
    machine.collect(3)
    assert (machine.tombstones, machine.version(b"k") is None) == (1, False)
    machine.collect(4)
    assert (machine.tombstones, machine.version(b"k")) == (0, None)


def test_deletions_of_one_key_that_waited_together_leave_one_tombstone() -> None:
    """They take effect at one index, so they have one row: it must not be counted for each."""
    machine = locked()
    machine.sequence(eventual(1, value=None))
    machine.sequence(eventual(2, value=None))
    machine.decide(ONE, commit=False)
    assert (machine.tombstones, sum(key[:1] == b"t" for key, _ in machine.rows())) == (1, 1)
    machine.collect(machine.applied)
    assert machine.tombstones == 0


# ---- the queue ------------------------------------------------------------------------------------------------------


def test_queue_gives_out_free_keys_in_the_order_of_their_numbers() -> None:
    """Of all keys that were released and are free; the rest stays in its order, and its numbers stay."""
    waiting = WaitingWrites()
    numbers = [waiting.add(eventual(sequence, key)) for sequence, key in enumerate((b"x", b"y", b"x", b"z"), 1)]
    assert numbers == [1, 2, 3, 4]
    released = Locks(writes=(b"x",), reads=(b"y",), ranges=(Interval(b"z", None),))
    assert waiting.take_unlocked(Locks(writes=(b"other",)), lambda key: False) == []
    taken = waiting.take_unlocked(released, lambda key: key == b"y")
    assert [(number, write.key) for number, write in taken] == [(1, b"x"), (3, b"x"), (4, b"z")]
    assert (len(waiting), waiting.at_key(b"x"), [write.sequence for write in waiting.at_key(b"y")]) == (1, [], [2])
    assert waiting.add(eventual(5, b"y")) == 3
    assert waiting.take_unlocked(released, lambda key: True) == []


def test_size_of_the_queue_is_that_of_its_keys_and_values() -> None:
    """Whoever bounds it counts what is held in memory; all is given back."""
    waiting = WaitingWrites()
    waiting.add(eventual(1, b"x", b"123"))
    waiting.add(eventual(2, b"yy", None))
    assert waiting.size_bytes == 6
    waiting.take_unlocked(Locks(writes=(b"x", b"yy")), lambda key: key == b"x")
    assert waiting.size_bytes == 4
    waiting.take_unlocked(Locks(writes=(b"x",)), lambda key: False)
    assert waiting.size_bytes == 0


def test_floor_of_the_queue_is_the_lowest_base() -> None:
    """Tombstones above it stay: what waits has not seen them."""
    waiting = WaitingWrites()
    assert waiting.floor(8) == 8
    waiting.add(eventual(1, b"x", base=5))
    waiting.add(eventual(2, b"y", base=3))
    assert waiting.floor(8) == 3
