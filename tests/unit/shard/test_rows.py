"""Damaged rows are Corrupt, whatever it is that cannot be read."""

from __future__ import annotations

import pytest

from kvnode.errors import Corrupt
from kvnode.shard.rows import checked
from kvnode.shard.state_machine import META, Position, StateMachine
from kvnode.shard.version import Version, decode_version, encode_version
from kvnode.storage.memory_store import MemoryStore
from kvnode.storage.table import Table


@pytest.mark.parametrize(
    ("key", "row"),
    [
        (b"m", b""),
        (b"m", bytes(60)),
        (b"m", bytes(72) + b"\x05n1"),
        (b"n", b"x"),
        (b"c1", b"\xff"),
        (b"s" + bytes(8), b""),
        (b"w1", b""),
    ],
)
def test_state_with_a_row_that_cannot_be_read_is_corrupt(key: bytes, row: bytes) -> None:
    """The error is the documented one, and says what to do."""
    store = MemoryStore()
    store.commit({0: [(key, row)]})
    with pytest.raises(Corrupt, match="restore"):
        StateMachine(Table(0, store))


def test_position_that_cannot_be_read_is_corrupt() -> None:
    """A snapshot's sender and a node's start look at it alone."""
    with pytest.raises(Corrupt):
        StateMachine.position(b"\0" * 8)


def test_version_with_a_damaged_origin_or_flags_is_corrupt() -> None:
    """A name that is no text; flags that no release sets; a deletion with a value."""
    row = encode_version(Version(1, 1, 1, 1, 1, "n1", 1, b"v"))
    for damaged in (row.replace(b"n1", b"\xff\xff"), b"\x02" + row[1:], b"\x01" + row[1:]):
        with pytest.raises(Corrupt):
            decode_version(damaged)


def test_snapshot_without_its_position_is_refused() -> None:
    """It replaced the rows before, and halted the node afterwards."""
    with pytest.raises(Corrupt, match="not whole"):
        list(checked([], Position(1, 1)))


def test_snapshot_with_rows_of_this_replica_alone_is_refused() -> None:
    """Eventual writes that wait are each replica's own."""
    with pytest.raises(Corrupt, match="none of this release"):
        list(checked([(b"l1", b"")], Position(1, 1)))
    assert META == b"m"
