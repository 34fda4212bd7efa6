"""The log in memory: what is there, what is stable, what is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvnode.invariant import InvariantViolated
from kvnode.protocol.raft.log import RaftLog
from kvnode.types import Entry


def entries(*terms: int, first: int = 1) -> list[Entry]:
    """Entries with these terms, from index `first` on."""
    return [Entry(first + i, term, 1, b"%d" % term) for i, term in enumerate(terms)]


def test_log_recovered_with_entries_is_stable() -> None:
    """What a log begins with came from the disk."""
    log = RaftLog(3, 1, entries(1, 2, first=4))
    assert (log.first_index, log.last_index, log.last_term, log.stable) == (4, 5, 2, 5)
    assert [log.term(index) for index in (2, 3, 4, 5, 6)] == [None, 1, 1, 2, None]


def test_log_append_with_a_gap_breaks_the_invariant() -> None:
    """Indexes are contiguous."""
    with pytest.raises(InvariantViolated):
        RaftLog(0, 0, entries(1)).append(entries(1, first=3))


def test_log_appended_entries_become_stable_only_by_the_disk() -> None:
    """An entry counts when it is on disk, and only that very entry."""
    log = RaftLog()
    log.append(entries(1, 1))
    assert log.stable == 0
    log.on_durable(2, 7)
    assert log.stable == 0
    log.on_durable(2, 1)
    assert log.stable == 2
    log.on_durable(1, 1)
    assert log.stable == 2


def test_log_write_of_a_replaced_entry_makes_nothing_stable() -> None:
    """The disk reports an entry that was truncated meanwhile: its successor is not on disk yet."""
    log = RaftLog()
    log.append(entries(1, 1))
    log.truncate(2)
    log.append(entries(2, first=2))
    log.on_durable(2, 1)
    assert log.stable == 0


def test_log_truncation_behind_stable_takes_it_back() -> None:
    """What is removed is not stable any more."""
    log = RaftLog(0, 0, entries(1, 1, 1))
    log.truncate(2)
    assert (log.last_index, log.stable) == (1, 1)


def test_log_compaction_of_stable_entries_keeps_the_last_term() -> None:
    """The place just before the log is known, so that an append behind it can be checked."""
    log = RaftLog(0, 0, entries(1, 2, 3))
    log.compact(2)
    assert (log.offset, log.offset_term, log.first_index, log.last_index) == (2, 2, 3, 3)
    log.compact(1)
    assert log.offset == 2
    with pytest.raises(InvariantViolated):
        log.slice(2, 100)


def test_log_compaction_of_unstable_entries_breaks_the_invariant() -> None:
    """The log is cut only behind what is on disk."""
    log = RaftLog()
    log.append(entries(1))
    with pytest.raises(InvariantViolated):
        log.compact(1)


def test_log_reset_to_its_own_entry_keeps_what_follows() -> None:
    """A snapshot that the log continues leaves the entries behind it: they may be acknowledged."""
    log = RaftLog(0, 0, entries(1, 1, 2))
    log.reset(2, 1)
    assert (log.offset, log.last_index, log.stable) == (2, 3, 3)


def test_log_reset_to_a_foreign_entry_forgets_everything() -> None:
    """A snapshot that contradicts the log replaces it."""
    log = RaftLog(0, 0, entries(1, 1, 1))
    log.reset(2, 5)
    assert (log.offset, log.offset_term, log.last_index, log.stable) == (2, 5, 2, 2)


def test_log_slice_by_size_has_at_least_one_entry() -> None:
    """A large entry goes alone; it never blocks."""
    log = RaftLog(0, 0, [Entry(i, 1, 1, bytes(100)) for i in range(1, 6)])
    assert [entry.index for entry in log.slice(2, 1)] == [2]
    assert [entry.index for entry in log.slice(2, 250)] == [2, 3]


@pytest.mark.parametrize(
    ("last_index", "last_term", "expected"),
    [(3, 2, True), (4, 2, True), (2, 2, False), (1, 3, True), (9, 1, False)],
)
def test_log_compared_for_a_vote_the_later_term_then_the_longer_wins(last_index: int, last_term: int, expected: bool) -> None:
    """Section 3.6.1: later last term first, then length."""
    assert RaftLog(0, 0, entries(1, 1, 2)).is_up_to_date(last_index, last_term) is expected


@pytest.mark.parametrize(
    ("index", "limit", "expected"),
    [(6, 9, (6, 5)), (6, 4, (4, 3)), (6, 2, (2, 1)), (6, 0, (0, 0)), (99, 5, (6, 5)), (3, 3, (3, 3))],
)
def test_log_conflict_hint_with_a_term_skips_all_later_terms(index: int, limit: int, expected: tuple[int, int]) -> None:
    """Section 3.5: one step over a whole term."""
    assert RaftLog(0, 0, entries(1, 1, 3, 3, 5, 5)).conflict_hint(index, limit) == expected


@given(
    st.lists(st.integers(1, 5), max_size=12).map(sorted),
    st.lists(st.integers(1, 5), max_size=12).map(sorted),
)
def test_log_conflict_hints_exchanged_never_pass_the_last_match(mine: list[int], theirs: list[int]) -> None:
    """Two logs, as Log Matching permits them: the hint of either side is never below the last common entry."""
    common = 0
    while common < min(len(mine), len(theirs)) and mine[common] == theirs[common]:
        common += 1
    # Behind the first difference nothing is common (Log Matching).
    follower, leader = RaftLog(0, 0, entries(*theirs)), RaftLog(0, 0, entries(*mine))
    previous = leader.last_index
    hint_index, hint_term = follower.conflict_hint(previous, leader.term(previous) or 0)
    assert hint_index >= common
    assert leader.conflict_hint(hint_index, hint_term)[0] >= common
