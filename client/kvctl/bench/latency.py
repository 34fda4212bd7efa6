"""Latencies: a histogram that keeps three significant digits (HdrHistogram), and what is exact beside it.

Owns the unit: microseconds come in, milliseconds go out, nanoseconds are in the histogram, as its tools expect.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from typing import NamedTuple

from hdrh.histogram import HdrHistogram

NS_MIN = 1_000
NS_MAX = 24 * 3_600 * 10**9
SIGNIFICANT_DIGITS = 3
PERCENTILES = (50.0, 95.0, 99.0, 99.9)


class Summary(NamedTuple):
    """Milliseconds."""

    average: float
    min: float
    max: float
    p50: float
    p95: float
    p99: float
    p99_9: float


class Latency:
    """The latencies of some operations."""

    def __init__(self) -> None:
        self.histogram = HdrHistogram(NS_MIN, NS_MAX, SIGNIFICANT_DIGITS)
        self.count = 0
        self._sum_us, self._min_us, self._max_us = 0, math.inf, 0

    def record(self, microseconds: array[int]) -> None:
        """Add some."""
        if not microseconds:
            return
        for value, times in Counter(microseconds).items():
            self.histogram.record_value(min(NS_MAX, value * 1_000), times)
        self.count += len(microseconds)
        self._sum_us += sum(microseconds)
        self._min_us = min(self._min_us, min(microseconds))
        self._max_us = max(self._max_us, max(microseconds))

    def add(self, other: Latency) -> None:
        """Add those of another."""
        if other.count:
            self.histogram.add(other.histogram)
            self.count += other.count
            self._sum_us += other._sum_us
            self._min_us, self._max_us = min(self._min_us, other._min_us), max(self._max_us, other._max_us)

    def summary(self) -> Summary | None:
        """The figures; None if there was no operation. Percentiles are right to three digits, the others exact."""
        if not self.count:
            return None
        at = self.histogram.get_percentile_to_value_dict(list(PERCENTILES))
        max_ms = self._max_us / 1e3
        percentiles = (min(at[percentile] / 1e6, max_ms) for percentile in PERCENTILES)
        return Summary(self._sum_us / self.count / 1e3, self._min_us / 1e3, max_ms, *percentiles)
