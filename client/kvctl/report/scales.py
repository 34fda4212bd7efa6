"""From values to places in a picture, and the values that an axis names.

Owns the arithmetic of axes. Pure; places are shares of the axis, 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1000, 60_000, 3_600_000, 86_400_000
TIME_STEPS_MS: Sequence[int] = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500),
    *(seconds * SECOND_MS for seconds in (1, 2, 5, 10, 15, 30)),
    *(minutes * MINUTE_MS for minutes in (1, 2, 5, 10, 15, 30)),
    *(hours * HOUR_MS for hours in (1, 2, 3, 6, 12)),
    *(days * DAY_MS for days in (1, 2, 7, 14, 28)),
)
"""Intervals that people think in."""


@dataclass(frozen=True, slots=True)
class Linear:
    """Equal differences are equally long."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """Where a value is; outside of the axis, its nearer end. Of an axis without length, the beginning."""
        return _within((value - self.low) / (self.high - self.low)) if self.high > self.low else 0.0


@dataclass(frozen=True, slots=True)
class Log:
    """Equal ratios are equally long; for values above 0."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """Where a value is; outside of the axis, its nearer end."""
        if value <= self.low or self.high <= self.low:
            return 0.0
        return _within(math.log(value / self.low) / math.log(self.high / self.low))

    def ticks(self) -> list[float]:
        """The powers of ten on it; where they are few, twice and five times them, too."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        steps = (1,) if self.high / self.low > 1000 else (1, 2, 5)
        marks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        return [mark for mark in marks if self.low * (1 - 1e-9) <= mark <= self.high * (1 + 1e-9)]


@dataclass(frozen=True, slots=True)
class Nines:
    """For percentiles: each further nine (90, 99, 99.9) is as long as the one before."""

    nines: float
    """How many: where the axis ends."""

    def share(self, percent: float) -> float:
        """Where a percentile is."""
        left = 1 - percent / 100
        return 1.0 if left <= 10**-self.nines else _within(-math.log10(left) / self.nines)


def _within(share: float) -> float:
    return min(max(share, 0.0), 1.0)


def round_up(value: float, steps: Sequence[float] = (1, 2, 5)) -> float:
    """The least number of these, times a power of ten, that is not below `value`; 1 of what is not above 0."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next((step * unit for step in steps if step * unit >= value * (1 - 1e-9)), 10 * unit)


def ticks(high: float, about: int = 4) -> list[float]:
    """From 0 to at least `high`, in round steps."""
    step = round_up(high / about)
    return [step * place for place in range(max(1, math.ceil(high / step - 1e-9)) + 1)]


def log_around(low: float, high: float) -> Log:
    """The axis around two values above 0: from 1, 2 or 5 times a power of ten to another, at least a decade."""
    first = 1 / round_up(1 / low)
    return Log(first, max(round_up(high), 10 * first))


def time_step_ms(span_ms: float, intervals_max: int) -> int:
    """The least round interval of which no more than so many cover a span of time."""
    return next((step for step in TIME_STEPS_MS if span_ms / step <= intervals_max), TIME_STEPS_MS[-1])


def time_ticks(from_ms: int, to_ms: int, about: int = 6) -> list[int]:
    """Round moments within a window, both ends included."""
    step = time_step_ms(max(to_ms - from_ms, 1), about)
    return list(range(-(-from_ms // step) * step, to_ms + 1, step))
