"""The nemesis' schedule: decided by the seed, bounded in time, and with every kind of fault."""

from __future__ import annotations

import pytest

from .faults import FAULTS
from .nemesis import schedule

NAMES = ("n1", "n2", "n3")


def test_schedule_of_one_seed_is_the_same_again() -> None:
    """And another seed's is another."""
    first, again, other = (schedule(seed, 120, NAMES, list(FAULTS)) for seed in ("1", "1", "2"))
    assert first == again != other


@pytest.mark.parametrize("nodes", [3, 5])
def test_schedule_of_an_hour_has_every_fault_within_its_bounds(nodes: int) -> None:
    """Each kind comes up, hits known nodes, ends within ten seconds, and does not begin after the end."""
    names = [f"n{number + 1}" for number in range(nodes)]
    planned = schedule("1", 3600, names, list(FAULTS))
    assert {one.fault.kind for one in planned} == set(FAULTS)
    for one in planned:
        assert 0 < one.at_s < 3600
        assert 0 <= one.fault.duration_s <= 10
        assert one.fault.nodes
        assert set(one.fault.nodes) <= set(names)


def test_schedule_faults_overlap_and_leave_quiet_times() -> None:
    """Both are needed: the one finds bugs, in the other the cluster gets somewhere."""
    planned = schedule("1", 3600, NAMES, list(FAULTS))
    ends = [one.at_s + one.fault.duration_s for one in planned]
    assert any(later.at_s < end for end, later in zip(ends, planned[1:], strict=False))
    assert any(later.at_s > end + 2 for end, later in zip(ends, planned[1:], strict=False))


def test_schedule_without_faults_is_empty() -> None:
    """A run without a nemesis is a load test."""
    assert schedule("1", 60, NAMES, []) == []
