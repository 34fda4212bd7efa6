"""Phi: how surprising a silence is, given the intervals between heartbeats so far.

Owns the formula, its inverse, and the window of intervals. Never decides anything: detector.py compares and acts.

phi(t) = -log10(P(the next heartbeat comes later than t after the last one)), with normally distributed intervals
(Hayashibara, Défago, Yared, Katayama: "The phi accrual failure detector", SRDS 2004). Suspecting at
phi = 5 is wrong about once in 10^5 intervals, as far as the normal model is true. For a process that sometimes stalls it
is not: its tail is heavier. Hence the least standard deviation here and the floor and confirmations in the detector.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from kvnode.invariant import invariant
from kvnode.types import Seconds

PHI_MAX: Final = 1_000.0
"""Phi is reported up to here; beyond, the number carries no meaning."""
_ASYMPTOTIC_Z_MIN: Final = 30.0
"""From here on erfc is close to the smallest float (it is 0 at z = 38.6); the series is exact to 10^-7 there."""
_MICROSECONDS: Final = 1_000_000


def phi(elapsed: Seconds, mean: Seconds, std: Seconds) -> float:
    """Suspicion after `elapsed` seconds of silence; 0 <= phi <= PHI_MAX, never NaN, growing with `elapsed`.

    Hayashibara et al. 2004: -log10(1 - F(elapsed)), F the normal distribution with `mean` and `std` > 0.
    """
    invariant(std > 0.0, f"the standard deviation {std} of heartbeat intervals must be positive")
    return _phi_of_z((elapsed - mean) / std)


def _phi_of_z(z: float) -> float:
    """-log10 of the upper tail of the standard normal distribution at `z`."""
    if z < _ASYMPTOTIC_Z_MIN:
        # `1 - F` would cancel to 0 at z = 8.3; erfc keeps its precision.
        return max(0.0, -math.log10(0.5 * math.erfc(z / math.sqrt(2.0))))
    # Abramowitz and Stegun 26.2.12: Q(z) = f(z)/z * (1 - 1/z^2 + 3/z^4 - ...).
    correction = math.log10(1.0 - 1.0 / (z * z) + 3.0 / (z * z * z * z))
    tail = (z * z / 2.0) * math.log10(math.e) + math.log10(z * math.sqrt(2.0 * math.pi)) - correction
    return min(tail, PHI_MAX)


def deviations_at(threshold: float) -> float:
    """The inverse: at how many standard deviations after the mean phi reaches `threshold`. 5 -> 4.26, 8 -> 5.61.

    It turns a threshold into a time, so that the detector knows its next deadline instead of polling phi.
    """
    invariant(0.0 < threshold < PHI_MAX, f"a threshold of phi must be between 0 and {PHI_MAX}, not {threshold}")
    low, high = -40.0, 80.0
    for _ in range(80):  # Bisection to the last bit; done once per detector.
        middle = (low + high) / 2.0
        if _phi_of_z(middle) < threshold:
            low = middle
        else:
            high = middle
    return high


class ArrivalWindow:
    """The latest intervals between arrivals from one peer, with mean and standard deviation in constant time.

    Sums are integers of microseconds: running sums of floats would drift over days.
    """

    def __init__(self, expected: Seconds, samples_max: int) -> None:
        """`expected` seconds is the one sample to begin with, and the least mean and standard deviation ever reported.

        Heartbeats and answers, and bursts after a stall, arrive closer than `expected`; believing them would make the
        usual interval look like an outage. A perfectly regular past says nothing about the next garbage collection.
        """
        self._expected = expected
        self._samples: deque[int] = deque()
        self._samples_max = samples_max
        self._sum = self._sum_squares = 0
        self.add(expected)

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, interval: Seconds) -> None:
        """Takes one interval in, and the oldest out if the window is full."""
        sample = round(interval * _MICROSECONDS)
        self._samples.append(sample)
        self._sum += sample
        self._sum_squares += sample * sample
        if len(self._samples) > self._samples_max:
            oldest = self._samples.popleft()
            self._sum -= oldest
            self._sum_squares -= oldest * oldest

    @property
    def mean(self) -> Seconds:
        """At least the expected interval."""
        return max(self._expected, self._sum / len(self._samples) / _MICROSECONDS)

    @property
    def std(self) -> Seconds:
        """At least the expected interval."""
        count = len(self._samples)
        # Exact in integers: n * sum(x^2) - sum(x)^2 is never negative.
        variance = (count * self._sum_squares - self._sum * self._sum) / (count * count)
        return max(self._expected, math.sqrt(variance) / _MICROSECONDS)
