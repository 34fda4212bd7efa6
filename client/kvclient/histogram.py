"""A distribution of durations that costs half a microsecond a value, and merges by addition.

Owns the buckets, which nodes and tools share (`kvapi.v1.Histogram`): log-linear as in HdrHistogram, 32 for each power of two,
so that a percentile is off by at most 1/32. HdrHistogram's own Python package takes two and a half times as long; it
serves `kvctl bench`, where its formats are wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kvapi.v1 import observability_pb2

VALUE_US_MAX = (1 << 36) - 1
"""Nineteen hours; what takes longer counts as that."""


class Histogram:
    """Counts durations in whole microseconds."""

    __slots__ = ("count", "counts", "max_us", "min_us", "sum_us")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        """Bucket -> how many."""
        self.count = self.sum_us = self.max_us = 0
        self.min_us = VALUE_US_MAX

    def record(self, value_us: int) -> None:
        """Count one duration; a negative one (clocks differ) counts as 0."""
        if value_us < 64:
            bucket = value_us = max(value_us, 0)
        else:
            if value_us > VALUE_US_MAX:
                value_us = VALUE_US_MAX
            shift = value_us.bit_length() - 6
            bucket = (shift << 5) + (value_us >> shift)
        counts = self.counts
        counts[bucket] = counts.get(bucket, 0) + 1
        self.count += 1
        self.sum_us += value_us
        if value_us > self.max_us:
            self.max_us = value_us
        if value_us < self.min_us:
            self.min_us = value_us

    def add(self, other: Histogram) -> None:
        """Count everything that `other` counted, too."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.count += other.count
        self.sum_us += other.sum_us
        self.max_us = max(self.max_us, other.max_us)
        self.min_us = min(self.min_us, other.min_us)

    def since(self, earlier: Histogram) -> Histogram:
        """What was counted after `earlier`, a former state of this one; least and greatest by its buckets."""
        later = Histogram()
        for bucket, count in self.counts.items():
            more = count - earlier.counts.get(bucket, 0)
            if more > 0:
                later.counts[bucket] = more
        later.count = sum(later.counts.values())
        later.sum_us = max(self.sum_us - earlier.sum_us, 0)
        if later.count:
            later.min_us = max(lower_bound(min(later.counts)), self.min_us)
            later.max_us = min(lower_bound(max(later.counts) + 1) - 1, self.max_us)
        return later

    def copy(self) -> Histogram:
        """The same counts, on their own."""
        copied = Histogram()
        copied.counts = self.counts.copy()
        copied.count, copied.sum_us = self.count, self.sum_us
        copied.max_us, copied.min_us = self.max_us, self.min_us
        return copied

    @property
    def average_us(self) -> float:
        """Exact; 0 of nothing."""
        return self.sum_us / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """The duration that `percent` of all do not exceed, microseconds: the middle of its bucket. 0 of nothing."""
        wanted = max(1, -int(-self.count * percent // 100))
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                middle = (lower_bound(bucket) + lower_bound(bucket + 1) - 1) / 2
                return min(max(middle, self.min_us), self.max_us)
        return 0.0

    def cumulative(self, bounds_us: Iterable[int]) -> Iterator[int]:
        """How many are at most each of the growing bounds, by whole buckets: what a Prometheus histogram shows."""
        buckets, seen, at = sorted(self.counts), 0, 0
        for bound in bounds_us:
            while at < len(buckets) and lower_bound(buckets[at] + 1) - 1 <= bound:
                seen += self.counts[buckets[at]]
                at += 1
            yield seen

    def to_pb(self) -> observability_pb2.Histogram:
        """As it travels."""
        buckets = sorted(self.counts)
        return observability_pb2.Histogram(
            count=self.count,
            sum_us=self.sum_us,
            min_us=self.min_us if self.count else 0,
            max_us=self.max_us,
            buckets=buckets,
            counts=[self.counts[bucket] for bucket in buckets],
        )

    @classmethod
    def from_pb(cls, message: observability_pb2.Histogram) -> Histogram:
        """From another process. Raises ValueError when its lists have different lengths."""
        histogram = cls()
        histogram.counts = dict(zip(message.buckets, message.counts, strict=True))
        histogram.count, histogram.sum_us, histogram.max_us = message.count, message.sum_us, message.max_us
        histogram.min_us = message.min_us if message.count else VALUE_US_MAX
        return histogram


def lower_bound(bucket: int) -> int:
    """The least duration of a bucket, microseconds."""
    if bucket < 64:
        return bucket
    shift = (bucket >> 5) - 1
    return (32 + (bucket & 31)) << shift


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures that people ask for; durations in microseconds."""

    count: int
    average: float
    min: float
    max: float
    p50: float
    p95: float
    p99: float
    p999: float


def summarize(histogram: Histogram) -> Summary:
    """Its figures."""
    return Summary(
        histogram.count,
        histogram.average_us,
        histogram.min_us if histogram.count else 0,
        histogram.max_us,
        *(histogram.percentile(percent) for percent in (50, 95, 99, 99.9)),
    )


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """One histogram of all."""
    whole = Histogram()
    for histogram in histograms:
        whole.add(histogram)
    return whole


SeriesKey = tuple[str, int, str]
"""Operation, consistency, stage ("" for the whole request)."""


def series_from_pb(response: observability_pb2.LatencyResponse) -> Mapping[SeriesKey, Histogram]:
    """A node's answer by operation, consistency and stage."""
    return {(one.operation, one.consistency, one.stage): Histogram.from_pb(one.histogram) for one in response.series}
