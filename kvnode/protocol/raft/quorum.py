"""What a majority of voters agrees on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T", int, float)


def majority(voters: int) -> int:
    """The smallest number of voters that two disjoint groups cannot both have."""
    return voters // 2 + 1


def reached_by_majority(values: Iterable[T]) -> T:
    """The largest value that a majority has reached: of (5, 3, 9) it is 5. `values` has one value a voter."""
    ordered = sorted(values, reverse=True)
    return ordered[majority(len(ordered)) - 1]
