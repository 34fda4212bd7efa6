"""Which locks exclude each other, and who asks whom to go: the table, and a naive model of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvnode.invariant import InvariantViolated
from kvnode.protocol.two_phase_commit.locks import Interval, Locks, LockTable, wounded_by
from kvnode.types import Txn

A, B, C = Txn(1, b"a"), Txn(2, b"b"), Txn(3, b"c")
WRITE, READ, RANGE = Locks(writes=(b"k",)), Locks(reads=(b"k",)), Locks(ranges=(Interval(b"k", b"l"),))


@pytest.mark.parametrize(
    ("held", "wanted", "excluded"),
    [
        (WRITE, WRITE, True),
        (WRITE, READ, True),
        (WRITE, RANGE, True),
        (READ, WRITE, True),
        (READ, READ, False),
        (READ, RANGE, False),
        (RANGE, WRITE, True),
        (RANGE, READ, False),
        (RANGE, RANGE, False),
        (WRITE, Locks(writes=(b"j",), reads=(b"l",), ranges=(Interval(b"l", None),)), False),
        (RANGE, Locks(writes=(b"l", b"j")), False),
        (RANGE, Locks(writes=(b"k/new",)), True),
        (Locks(ranges=(Interval(b"\xff", None),)), Locks(writes=(b"\xff\xff\xff",)), True),
        (Locks(writes=(b"\xff\xff",)), Locks(ranges=(Interval(b"\xff", None),)), True),
    ],
)
def test_lock_of_another_excludes_what_writes_or_is_written(held: Locks, wanted: Locks, excluded: bool) -> None:
    """Writes exclude all, reads and ranges only writes; a range also holds keys that do not exist, and not its end."""
    table = LockTable()
    table.take(A, held)
    assert table.conflicts(wanted) == ((A,) if excluded else ())
    assert table.conflicts(wanted, me=A) == ()


def test_locks_taken_in_the_way_of_another_break_an_invariant() -> None:
    """The state machine looks first: the table never holds both, and a transaction takes its locks once."""
    table = LockTable()
    table.take(A, WRITE)
    with pytest.raises(InvariantViolated):
        table.take(B, READ)
    with pytest.raises(InvariantViolated):
        table.take(A, Locks(writes=(b"other",)))
    assert (table.held(B), table.writer(b"k")) == (Locks(), A)


def test_conflicts_with_several_holders_name_each_once() -> None:
    """Whoever waits needs to know all, and who is wounded."""
    table = LockTable()
    table.take(A, Locks(reads=(b"k", b"m"), ranges=(Interval(b"a", b"z"),)))
    table.take(B, Locks(reads=(b"k",)))
    table.take(C, Locks(writes=(b"zz",)))
    assert sorted(table.conflicts(Locks(writes=(b"k", b"m"), reads=(b"zz",)))) == [A, B, C]
    assert sorted(table.conflicts(Locks(writes=(b"k",)), me=A)) == [B]


def test_locks_released_by_one_of_two_readers_stay_with_the_other() -> None:
    """A write waits for both; one that holds nothing releases nothing."""
    table = LockTable()
    table.take(A, READ)
    table.take(B, READ)
    table.release(A)
    table.release(C)
    assert (table.is_locked(b"k"), list(table.holders(b"k"))) == (True, [B])
    table.release(B)
    assert (table.is_locked(b"k"), bool(table)) == (False, False)


def test_transaction_that_holds_empty_locks_holds_something() -> None:
    """A part without keys still has a vote, whose end gives it back."""
    table = LockTable()
    table.take(A, Locks())
    assert (bool(table), A in table, B in table, table.conflicts(WRITE)) == (True, True, False, ())
    table.release(A)
    assert (bool(table), A in table) == (False, False)


# ---- the model ------------------------------------------------------------------------------------------------------

KEYS = st.binary(max_size=2).map(lambda key: b"k" + key[:1])
INTERVALS = st.tuples(KEYS, st.none() | KEYS).map(lambda bounds: Interval(*bounds))
LOCKS = st.builds(
    Locks,
    writes=st.lists(KEYS, max_size=2, unique=True).map(tuple),
    reads=st.lists(KEYS, max_size=2, unique=True).map(tuple),
    ranges=st.lists(INTERVALS, max_size=2, unique=True).map(tuple),
)
TXNS = st.integers(1, 4).map(lambda number: Txn(number, b"%d" % number))
STEPS = st.lists(st.tuples(TXNS, st.none() | LOCKS), max_size=25)


def excludes(held: Locks, wanted: Locks) -> bool:
    """Whether both cannot be held, said as the header of the module says it."""
    written = [key for key in held.writes if key in wanted.writes or key in wanted.reads]
    written += [key for key in wanted.writes if key in held.reads]
    written += [key for key in held.writes for interval in wanted.ranges if interval.holds(key)]
    written += [key for key in wanted.writes for interval in held.ranges if interval.holds(key)]
    return bool(written)


@given(STEPS, LOCKS, KEYS, INTERVALS)
def test_lock_table_after_any_steps_is_what_a_naive_one_is(
    steps: list[tuple[Txn, Locks | None]], asked: Locks, key: bytes, interval: Interval
) -> None:
    """Taking where nothing is in the way, and giving back: every question has the answer of a list of who holds what."""
    table, model = LockTable(), dict[Txn, Locks]()
    for txn, locks in steps:
        if locks is None:
            table.release(txn)
            model.pop(txn, None)
        elif txn not in model and not any(excludes(held, locks) for held in model.values()):
            table.take(txn, locks)
            model[txn] = locks
        elif txn not in model:
            with pytest.raises(InvariantViolated):
                table.take(txn, locks)
    assert sorted(table.conflicts(asked)) == sorted(txn for txn, held in model.items() if excludes(held, asked))
    writers = [txn for txn, held in model.items() if key in held.writes]
    assert table.writer(key) == (writers[0] if writers else None)
    assert len(writers) < 2
    in_the_way = {txn for txn, held in model.items() if excludes(held, Locks(writes=(key,)))}
    assert set(table.holders(key)) == in_the_way
    assert table.is_locked(key) == bool(in_the_way)
    assert set(table.writers_within(interval)) == {
        txn for txn, held in model.items() if any(interval.holds(key) for key in held.writes)
    }
    assert [table.held(Txn(n, b"%d" % n)) for n in range(1, 5)] == [model.get(Txn(n, b"%d" % n), Locks()) for n in range(1, 5)]
    assert table.ranges == sum(len(held.ranges) for held in model.values())
    for txn, held in list(model.items()):
        assert held.cover(key) == excludes(held, Locks(writes=(key,)))
        table.release(txn)
    assert vars(table) == vars(LockTable())


def test_locks_held_are_counted_one_by_one() -> None:
    """A key that two read counts twice; what is released counts no more."""
    table = LockTable()
    assert table.count == 0
    table.take(A, Locks(writes=(b"a", b"b"), reads=(b"k",), ranges=(Interval(b"x", b"y"),)))
    table.take(B, Locks(reads=(b"k",)))
    assert table.count == 5
    table.release(A)
    assert table.count == 1


# ---- wound-wait -----------------------------------------------------------------------------------------------------


def test_wounded_are_the_holders_younger_than_the_asker() -> None:
    """For older ones it waits; of two with the same start the smaller id is the older."""
    twin = Txn(2, b"a")
    assert wounded_by(B, [A, C, twin]) == (C,)
    assert wounded_by(A, [B, C]) == (B, C)
    assert wounded_by(C, [A, B]) == ()
    assert wounded_by(twin, [B]) == (B,)


@given(st.lists(st.builds(Txn, st.integers(0, 3), st.binary(max_size=1)), min_size=2, max_size=5, unique=True))
def test_waits_that_last_after_wounding_make_no_circle(txns: list[Txn]) -> None:
    """Whatever waits for whatever: an asker goes on waiting only for the older, so the oldest waits for nobody."""
    for asker in txns:
        others = [txn for txn in txns if txn != asker]
        lasting = [txn for txn in others if txn not in wounded_by(asker, others)]
        assert all(txn < asker for txn in lasting)
    assert wounded_by(min(txns), [txn for txn in txns if txn != min(txns)]) == tuple(txn for txn in txns if txn != min(txns))
