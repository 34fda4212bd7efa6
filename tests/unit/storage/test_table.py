"""A shard's table: memory over frozen over store."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvnode.invariant import InvariantViolated
from kvnode.storage.memory_store import MemoryStore
from kvnode.storage.table import ROW_OVERHEAD_BYTES, Table


def table_over(**rows: bytes) -> tuple[Table, MemoryStore]:
    store = MemoryStore()
    store.commit({1: [(key.encode(), value) for key, value in rows.items()]})
    return Table(1, store), store


def test_table_put_and_delete_hide_the_rows_below() -> None:
    """The newest write counts, in reads and scans, and a deletion is a write."""
    table, _ = table_over(a=b"store", b=b"store", c=b"store")
    table.put(b"a", b"frozen")
    table.delete(b"b")
    table.put(b"d", b"frozen")
    table.freeze()
    table.put(b"a", b"memory")
    table.put(b"b", b"memory")
    table.delete(b"d")
    table.put(b"e", b"memory")
    assert [table.get(key) for key in (b"a", b"b", b"c", b"d", b"e", b"f")] == [
        b"memory",
        b"memory",
        b"store",
        None,
        b"memory",
        None,
    ]
    assert list(table.scan(b"", None)) == [(b"a", b"memory"), (b"b", b"memory"), (b"c", b"store"), (b"e", b"memory")]
    assert list(table.scan(b"b", b"e")) == [(b"b", b"memory"), (b"c", b"store")]


def test_table_frozen_rows_stay_readable_until_they_are_in_the_store() -> None:
    """Through a flush no read misses a row, and what is flushed does not change."""
    table, store = table_over()
    table.put(b"a", b"1")
    table.delete(b"b")
    frozen = table.freeze()
    assert (len(table), table.size_bytes) == (0, 0)
    table.put(b"a", b"2")
    assert dict(frozen) == {b"a": b"1", b"b": None}
    assert table.get(b"b") is None
    store.commit({1: frozen.items()})
    table.thaw(flushed=True)
    assert table.get(b"a") == b"2"
    assert store.get(1, b"a") == b"1"


def test_table_thawed_without_a_flush_keeps_the_frozen_rows_under_the_newer() -> None:
    """A flush that failed loses nothing, and the next one has everything."""
    table, _ = table_over(c=b"store")
    table.put(b"a", b"1")
    table.put(b"b", b"1")
    table.delete(b"c")
    table.freeze()
    table.put(b"a", b"22")
    table.delete(b"b")
    table.thaw(flushed=False)
    assert list(table.scan(b"", None)) == [(b"a", b"22")]
    assert table.size_bytes == 3 * ROW_OVERHEAD_BYTES + 3 + 2
    assert dict(table.freeze()) == {b"a": b"22", b"b": None, b"c": None}


def test_table_frozen_twice_violates_an_invariant() -> None:
    """One flush at a time."""
    table, _ = table_over()
    table.freeze()
    with pytest.raises(InvariantViolated):
        table.freeze()


def test_table_reset_shows_the_store_alone_and_ends_a_flush() -> None:
    """After a snapshot was installed, nothing older shows through, and a flush that ends late changes nothing."""
    table, store = table_over(a=b"1")
    table.put(b"a", b"2")
    table.freeze()
    table.put(b"b", b"3")
    store.replace(1, b"", [(b"z", b"9")])
    table.reset()
    table.thaw(flushed=False)
    assert list(table.scan(b"", None)) == [(b"z", b"9")]
    assert (table.get(b"a"), table.get(b"b"), len(table), table.size_bytes) == (None, None, 0, 0)


def test_table_size_counts_rows_once() -> None:
    """Overwriting and deleting change the size by the difference."""
    table, _ = table_over()
    table.put(b"key", b"x" * 100)
    assert table.size_bytes == 103 + ROW_OVERHEAD_BYTES
    table.put(b"key", b"x" * 10)
    assert table.size_bytes == 13 + ROW_OVERHEAD_BYTES
    table.delete(b"key")
    table.delete(b"key")
    assert table.size_bytes == 3 + ROW_OVERHEAD_BYTES
    table.put(b"key", b"")
    assert (table.size_bytes, len(table)) == (3 + ROW_OVERHEAD_BYTES, 1)


def test_table_scan_stays_valid_while_the_caller_writes() -> None:
    """A caller may delete what it has just read, and add keys, with a few and with many keys added."""
    for count in (1, 500):
        table, _ = table_over(a=b"", b=b"", c=b"")
        for i in range(100):
            table.put(b"d%03d" % i, b"")
        seen = []
        for key, _ in table.scan(b"", None):
            seen.append(key)
            table.delete(key)
            for i in range(count):
                table.put(b"0%03d" % i, b"")
            next(table.scan(b"", None))
        assert seen == [b"a", b"b", b"c", *(b"d%03d" % i for i in range(100))]
        assert [key for key, _ in table.scan(b"", None)] == [b"0%03d" % i for i in range(count)]


KEYS = st.binary(min_size=1, max_size=2)


class TableModel(RuleBasedStateMachine):
    """Any sequence of operations: the table shows what a dictionary would."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.table = Table(1, self.store)
        self.model: dict[bytes, bytes] = {}
        self.frozen: list[tuple[bytes, bytes | None]] | None = None

    @rule(key=KEYS, value=st.binary(max_size=3))
    def put(self, key: bytes, value: bytes) -> None:
        self.table.put(key, value)
        self.model[key] = value

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        self.table.delete(key)
        self.model.pop(key, None)

    @precondition(lambda self: self.frozen is None)
    @rule()
    def freeze(self) -> None:
        self.frozen = list(self.table.freeze().items())

    @precondition(lambda self: self.frozen is not None)
    @rule(flushed=st.booleans())
    def thaw(self, flushed: bool) -> None:
        assert self.frozen is not None
        if flushed:
            self.store.commit({1: self.frozen})
        self.table.thaw(flushed)
        self.frozen = None

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        assert self.table.get(key) == self.model.get(key)

    @rule(start=st.binary(max_size=2), end=st.none() | KEYS)
    def scan(self, start: bytes, end: bytes | None) -> None:
        expected = [(key, self.model[key]) for key in sorted(self.model) if key >= start and (end is None or key < end)]
        assert list(self.table.scan(start, end)) == expected

    @invariant()
    def size_is_the_sum(self) -> None:
        memory = self.table._memory
        assert self.table.size_bytes == sum(len(key) + len(value or b"") + ROW_OVERHEAD_BYTES for key, value in memory.items())


TestTableModel = TableModel.TestCase
TestTableModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
