"""A snapshot's mark in the log: what a restart may believe of the entries before and behind it."""

from __future__ import annotations

from kvnode.runtime.recovery import SNAPSHOT_MARK, ShardRecovery
from kvnode.types import Entry


def _recovered(*records: tuple[int, int, int]) -> ShardRecovery:
    found = ShardRecovery()
    for index, term, kind in records:
        found.on_entry(Entry(index, term, kind, b""))
    return found


def test_recovery_with_a_mark_over_contradicted_entries_keeps_what_came_behind() -> None:
    """Entries 9 and 10 of term 1 were contradicted by a snapshot up to (10, 4); entry 11 was acknowledged behind it."""
    found = _recovered((9, 1, 1), (10, 1, 1), (11, 1, 1), (10, 4, SNAPSHOT_MARK), (11, 5, 1))
    log = found.log(0, flushed=10, flushed_term=4, entries_retained=100)
    assert (log.offset, log.offset_term, log.last_index, log.term(11)) == (10, 4, 11, 5)


def test_recovery_with_a_mark_offers_nothing_before_it() -> None:
    """Entries that the snapshot may have contradicted are not retained for slow followers, however many may be."""
    found = _recovered((8, 1, 1), (9, 1, 1), (10, 4, SNAPSHOT_MARK), (11, 5, 1))
    assert found.log(0, flushed=11, flushed_term=5, entries_retained=100).first_index == 11


def test_recovery_with_a_mark_behind_a_gap_continues_the_snapshot() -> None:
    """The snapshot reached further than the log had."""
    found = _recovered((3, 1, 1), (10, 4, SNAPSHOT_MARK), (11, 4, 1), (12, 4, 1))
    log = found.log(0, flushed=10, flushed_term=4, entries_retained=100)
    assert (log.offset, log.last_index, log.stable) == (10, 12, 12)


def test_recovery_after_a_crash_before_the_mark_believes_the_store() -> None:
    """The store was replaced, the mark not written: older entries of another term are void, those that match stay."""
    contradicted = _recovered((9, 1, 1), (10, 1, 1), (11, 1, 1))
    assert contradicted.log(0, flushed=10, flushed_term=4, entries_retained=100).last_index == 10
    matching = _recovered((9, 4, 1), (10, 4, 1), (11, 4, 1))
    assert matching.log(0, flushed=10, flushed_term=4, entries_retained=100).last_index == 11
