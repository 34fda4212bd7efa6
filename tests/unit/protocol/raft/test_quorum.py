"""What a majority is, and what it has reached."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvnode.protocol.raft.quorum import majority, reached_by_majority


@pytest.mark.parametrize(("voters", "expected"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)])
def test_majority_of_voters_is_more_than_half(voters: int, expected: int) -> None:
    """Two disjoint groups cannot both be a majority; one voter less would not be one."""
    assert majority(voters) == expected
    assert 2 * majority(voters) > voters >= 2 * (majority(voters) - 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([7], 7), ([5, 3], 3), ([5, 3, 9], 5), ([9, 9, 0], 9), ([4, 3, 2, 1], 2), ([5, 4, 3, 2, 1], 3), ([0, 0, 8], 0)],
)
def test_reached_by_majority_of_values_is_the_median_or_below(values: list[int], expected: int) -> None:
    """The table of what a majority has reached."""
    assert reached_by_majority(values) == expected


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9))
def test_reached_by_majority_counted_is_the_largest_such_value(values: list[int]) -> None:
    """A majority is at or above the answer, and none is above it."""
    reached = reached_by_majority(values)
    assert sum(value >= reached for value in values) >= majority(len(values))
    assert sum(value > reached for value in values) < majority(len(values))
