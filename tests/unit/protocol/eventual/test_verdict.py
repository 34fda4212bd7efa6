"""Whether an eventual write takes effect: the table of DESIGN section 9, rules 4 and 5."""

from __future__ import annotations

import pytest

from kvnode.protocol.eventual.verdict import HORIZON, LATER_WRITE, STRONG_WRITE, Current, Stamp, Superseded, verdict


def current(hlc: int = 50, node: str = "", revision: int = 10, strong: int = 10) -> Current:
    """A key's present version."""
    return Current(Stamp(hlc, node, 1), revision, strong)


CASES = {
    "nothing known, base at the horizon": (Stamp(1, "a", 1), 5, None, 5, None),
    "nothing known, base above the horizon": (Stamp(1, "a", 1), 6, None, 5, None),
    "nothing known, base below the horizon": (Stamp(99, "a", 1), 4, None, 5, Superseded(HORIZON, 0)),
    "strong write not seen, whatever the clocks say": (Stamp(99, "a", 1), 9, current(), 0, Superseded(STRONG_WRITE, 10)),
    "strong write seen": (Stamp(51, "a", 1), 10, current(), 0, None),
    "strong write seen, older stamp": (Stamp(49, "a", 1), 10, current(), 0, Superseded(LATER_WRITE, 10)),
    "later eventual write": (Stamp(51, "a", 1), 0, current(node="b", strong=0), 0, None),
    "earlier eventual write": (Stamp(49, "a", 1), 0, current(node="b", strong=0), 0, Superseded(LATER_WRITE, 10)),
    "same clock, larger origin": (Stamp(50, "c", 1), 0, current(node="b", strong=0), 0, None),
    "same clock, smaller origin": (Stamp(50, "a", 1), 0, current(node="b", strong=0), 0, Superseded(LATER_WRITE, 10)),
    "same clock, later life": (Stamp(50, "b", 2), 0, current(node="b", strong=0), 0, None),
    "known key below the horizon": (Stamp(51, "a", 1), 3, current(node="b", strong=0), 5, None),
    "strong before clocks": (Stamp(49, "a", 1), 9, current(), 0, Superseded(STRONG_WRITE, 10)),
}


@pytest.mark.parametrize("case", CASES)
def test_verdict_of_each_case_is_the_tables(case: str) -> None:
    """What the replica had seen decides against strong writes; clocks decide among eventual ones."""
    stamp, base, now, horizon, expected = CASES[case]
    assert verdict(stamp, base, now, horizon) == expected
