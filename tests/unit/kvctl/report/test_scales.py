"""Axes: where values are, and what is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvctl.report.scales import (
    TIME_STEPS_MS,
    Linear,
    Log,
    Nines,
    log_around,
    round_up,
    ticks,
    time_step_ms,
    time_ticks,
)

POSITIVE = st.floats(min_value=1e-6, max_value=1e12)


def test_linear_place_is_a_share_of_the_axis() -> None:
    """Ends, middle, and what is outside at the nearer end; an axis without length has one place."""
    axis = Linear(10, 30)
    assert [axis.share(value) for value in (10, 20, 30, 0, 99)] == [0, 0.5, 1, 0, 1]
    assert Linear(5, 5).share(5) == 0


def test_log_place_counts_ratios() -> None:
    """Each decade is as long; zero and less are at the beginning."""
    axis = Log(1, 1000)
    places = [round(axis.share(value), 6) for value in (-1, 0, 1, 10, 100, 1000, 1e9)]
    assert places == [0, 0, 0, 0.333333, 0.666667, 1, 1]


def test_log_ticks_are_decades_or_finer() -> None:
    """A wide axis names powers of ten, a short one also what is between."""
    assert Log(1, 10_000).ticks() == [1, 10, 100, 1000, 10_000]
    assert Log(5, 50).ticks() == [5, 10, 20, 50]


@given(POSITIVE, POSITIVE)
def test_log_around_values_holds_them(one: float, other: float) -> None:
    """The axis begins at or below the lesser, ends at or above the greater, and is a decade long at least."""
    low, high = sorted((one, other))
    axis = log_around(low, high)
    assert axis.low <= low * (1 + 1e-6)
    assert axis.high >= high * (1 - 1e-6)
    assert axis.high >= axis.low * 9.99
    assert axis.ticks()


def test_nines_place_is_the_rarity() -> None:
    """Each nine is as long as the one before; what is rarer than the axis is at its end."""
    axis = Nines(3)
    assert [round(axis.share(percent), 6) for percent in (0, 90, 99, 99.9, 99.99, 100)] == [0, 0.333333, 0.666667, 1, 1, 1]


@pytest.mark.parametrize(
    ("value", "rounded"), [(1, 1), (1.1, 2), (2.1, 5), (7, 10), (0.03, 0.05), (900, 1000), (0, 1), (-3, 1)]
)
def test_round_up_takes_the_next_round_number(value: float, rounded: float) -> None:
    """1, 2 and 5 times powers of ten."""
    assert round_up(value) == pytest.approx(rounded)


@given(POSITIVE)
def test_ticks_reach_the_highest_value(high: float) -> None:
    """They begin at 0, are evenly apart, end at or just above the value, and are few."""
    found = ticks(high)
    assert found[0] == 0
    assert found[-1] >= high * (1 - 1e-6)
    assert 2 <= len(found) <= 6


@given(st.integers(0, 2_000_000_000_000), st.integers(0, 10_000_000_000))
def test_time_ticks_are_round_and_inside(from_ms: int, span_ms: int) -> None:
    """Multiples of a step that people think in, within the window, no more than were asked for and one."""
    found = time_ticks(from_ms, from_ms + span_ms)
    step = time_step_ms(max(span_ms, 1), 6)
    assert step in TIME_STEPS_MS
    assert all(from_ms <= at <= from_ms + span_ms and at % step == 0 for at in found)
    assert len(found) <= 7


def test_time_step_grows_with_the_span() -> None:
    """A minute in at most sixty parts is seconds, a day half hours; beyond all steps it is the longest."""
    assert time_step_ms(60_000, 60) == 1000
    assert time_step_ms(86_400_000, 60) == 1_800_000
    assert time_step_ms(1e15, 10) == TIME_STEPS_MS[-1]
