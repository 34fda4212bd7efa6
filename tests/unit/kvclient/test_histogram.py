"""The shared histogram: buckets without gaps, percentiles within a 32nd, and addition that loses nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvclient.histogram import VALUE_US_MAX, Histogram, lower_bound, merged, summarize

durations = st.lists(st.integers(min_value=0, max_value=VALUE_US_MAX), max_size=200)


def histogram_of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(st.integers(min_value=0, max_value=VALUE_US_MAX))
def test_buckets_of_any_value_hold_it_and_are_narrow(value: int) -> None:
    """The value is within its bucket, which is at most a 32nd of it wide."""
    (bucket,) = histogram_of([value]).counts
    assert lower_bound(bucket) <= value < lower_bound(bucket + 1)
    assert lower_bound(bucket + 1) - lower_bound(bucket) <= max(1, value / 32)


def test_bucket_bounds_of_all_numbers_grow_without_gaps() -> None:
    """Each bucket begins where the one before ends: the next number is another bucket."""
    bounds = [lower_bound(bucket) for bucket in range(1000)]
    assert bounds == sorted(set(bounds))
    for bucket in range(1, 1000):
        assert list(histogram_of([bounds[bucket] - 1]).counts) == [bucket - 1]


@pytest.mark.parametrize("percent", [0, 50, 95, 99, 99.9, 100])
def test_percentiles_of_a_long_tail_are_within_a_32nd_of_the_sorted_list(percent: float) -> None:
    """Against the exact answer."""
    rng = random.Random(7)
    values = sorted(int(rng.lognormvariate(8, 1.5)) for _ in range(5_000))
    exact = values[max(0, -int(-len(values) * percent // 100) - 1)]
    assert histogram_of(values).percentile(percent) == pytest.approx(exact, rel=1 / 32, abs=1)


@given(durations, durations)
def test_merged_of_two_is_the_histogram_of_both(one: list[int], other: list[int]) -> None:
    """Nothing is lost or counted twice, over the wire too; and the difference gives the second back."""
    both, first, second = histogram_of(one + other), histogram_of(one), histogram_of(other)
    assert summarize(merged([first, second])) == summarize(both)
    assert summarize(Histogram.from_pb(both.to_pb())) == summarize(both)
    later = both.since(first)
    assert (later.counts, later.sum_us, later.count) == (second.counts, second.sum_us, second.count)


@given(durations)
def test_cumulative_at_a_bucket_bound_is_exact(values: list[int]) -> None:
    """Bounds that are bucket bounds lose nothing; the last one has all."""
    bounds = [63, 127, 1023, VALUE_US_MAX]
    expected = [sum(value <= bound for value in values) for bound in bounds]
    assert list(histogram_of(values).cumulative(bounds)) == expected


def test_record_of_a_negative_duration_counts_as_nothing() -> None:
    """Clocks of two processes differ: a duration between them may seem negative."""
    histogram = histogram_of([-5])
    assert (histogram.count, histogram.min_us, histogram.sum_us) == (1, 0, 0)
