"""How late an event loop is, and how long the collector stops the process."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from kvnode.observe import loop_lag
from kvnode.observe.gc_pauses import GcPauses
from kvnode.observe.loop_lag import INTERVAL, RECENT, LoopLag


class Timer:
    """Of an event loop."""

    def __init__(self, after: float, callback: Callable[[], None]) -> None:
        self.after, self.callback, self.cancelled = after, callback, False

    def cancel(self) -> None:
        """It will not ring."""
        self.cancelled = True


class Loop:
    """Timers that ring when the test says so, and the clock."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.timers: list[Timer] = []

    def call_later(self, after: float, callback: Callable[[], None]) -> Timer:
        """As an event loop has it."""
        self.timers.append(Timer(after, callback))
        return self.timers[-1]

    def ring(self, after: float) -> None:
        """The latest timer rings now, so long after it was set."""
        self.now += after
        self.timers[-1].callback()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    """With its clock in place of the machine's."""
    made = Loop()
    monkeypatch.setattr(loop_lag.time, "perf_counter", lambda: made.now)
    return made


@pytest.fixture
def lag(loop: Loop) -> LoopLag:
    """Of that loop."""
    given: Any = loop
    return LoopLag(given)


def test_lag_is_what_a_timer_rings_too_late(loop: Loop, lag: LoopLag) -> None:
    """A timer in time is no lag, also one that rings early; one that is late counts with its lateness."""
    lag.start()
    loop.ring(INTERVAL)
    loop.ring(INTERVAL + 0.25)
    loop.ring(INTERVAL - 0.001)
    assert [timer.after for timer in loop.timers] == [INTERVAL] * 4
    assert lag.lags.count == 3
    assert lag.lags.max_us == pytest.approx(250_000, abs=1)
    assert lag.lags.min_us == 0


def test_lag_under_way_counts_as_the_greatest(loop: Loop, lag: LoopLag) -> None:
    """A loop that is stuck at this moment is late already."""
    lag.start()
    loop.now += INTERVAL + 3.0
    assert lag.greatest == pytest.approx(3.0)
    lag.stop()
    assert lag.greatest == 0.0


def test_lag_after_stop_is_not_measured(loop: Loop, lag: LoopLag) -> None:
    """Its timer goes with it."""
    lag.start()
    loop.ring(INTERVAL)
    lag.stop()
    assert [timer.cancelled for timer in loop.timers] == [False, True]
    lag.stop()


def test_greatest_lag_of_long_ago_is_forgotten(lag: LoopLag) -> None:
    """It is kept for one to two spans, and every lag counts in the distribution for ever."""
    lag.record(0.5, RECENT)
    assert lag.greatest == 0.5
    lag.record(0.1, RECENT * 1.9)
    assert lag.greatest == 0.5
    lag.record(0.2, RECENT * 2.1)
    assert lag.greatest == 0.5
    lag.record(0.01, RECENT * 3.2)
    assert lag.greatest == 0.2
    assert (lag.lags.count, lag.lags.max_us) == (4, 500_000)


def test_full_collections_are_measured_and_small_ones_are_not() -> None:
    """From start to stop."""
    pauses = GcPauses()
    pauses.start()
    try:
        gc.collect(0)
        gc.collect(1)
        assert pauses.pauses.count == 0
        gc.collect()
        assert pauses.pauses.count == 1
    finally:
        pauses.stop()
    gc.collect()
    assert pauses.pauses.count == 1
    pauses.stop()
