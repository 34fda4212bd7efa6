"""The formula of phi, its inverse, and the window of intervals."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import mean, pstdev

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvnode.invariant import InvariantViolated
from kvnode.protocol.failure_detection.phi import PHI_MAX, ArrivalWindow, deviations_at, phi


@pytest.mark.parametrize(
    ("elapsed", "expected"),
    [
        # Upper tails of the standard normal distribution (tables): Q(0) = 0.5, Q(1) = 0.158655, Q(2) = 0.0227501, ...
        (0.1, -math.log10(0.5)),
        (0.2, -math.log10(0.158655254)),
        (0.3, -math.log10(0.022750132)),
        (0.4, -math.log10(0.001349898)),
        (0.7, -math.log10(9.865876e-10)),
        (1.1, -math.log10(7.619853e-24)),
    ],
)
def test_phi_at_whole_deviations_is_that_of_the_tables(elapsed: float, expected: float) -> None:
    """Mean and standard deviation 100 ms: phi is the decimal logarithm of the normal tail."""
    assert phi(elapsed, 0.1, 0.1) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("elapsed", "expected"), [(0.0, 0.0), (-1e308, 0.0), (1e9, PHI_MAX), (1e308, PHI_MAX), (math.inf, PHI_MAX)]
)
def test_phi_at_extreme_silences_is_finite(elapsed: float, expected: float) -> None:
    """Neither underflow of the tail nor overflow of its square shows."""
    assert phi(elapsed, 0.1, 0.01) == pytest.approx(expected, abs=1e-12)


def test_phi_across_the_asymptotic_seam_is_smooth() -> None:
    """Where erfc gives way to the series, phi goes on growing by what its derivative says."""
    values = [phi(29.99 + n / 1000, 0.0, 1.0) for n in range(21)]
    growth = [later - earlier for earlier, later in pairwise(values)]
    assert min(growth) > 0.0
    assert max(growth) == pytest.approx(min(growth), rel=1e-2)


def test_phi_without_deviation_breaks_an_invariant() -> None:
    """A caller must bring a least standard deviation."""
    with pytest.raises(InvariantViolated):
        phi(1.0, 0.1, 0.0)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e3), st.floats(1e-3, 1e3))
def test_phi_of_a_longer_silence_is_never_smaller(first: float, second: float, mean_s: float, std_s: float) -> None:
    """Phi is monotone and within its range, for any window."""
    shorter, longer = sorted((first, second))
    assert 0.0 <= phi(shorter, mean_s, std_s) <= phi(longer, mean_s, std_s) <= PHI_MAX


@pytest.mark.parametrize(("threshold", "deviations"), [(1.0, 1.28155), (5.0, 4.26489), (8.0, 5.61200), (12.0, 7.03448)])
def test_deviations_at_a_threshold_invert_phi(threshold: float, deviations: float) -> None:
    """The quantiles of the normal distribution (tables), and phi of them is the threshold again."""
    assert deviations_at(threshold) == pytest.approx(deviations, abs=1e-4)
    assert phi(deviations_at(threshold), 0.0, 1.0) == pytest.approx(threshold, rel=1e-9)


def test_window_of_regular_arrivals_keeps_the_least_mean_and_deviation() -> None:
    """Perfect regularity, and bursts, do not make the detector nervous."""
    window = ArrivalWindow(expected=0.1, samples_max=100)
    for interval in [0.1] * 50 + [0.0] * 200:
        window.add(interval)
    assert (window.mean, window.std) == (0.1, 0.1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5_000_000), min_size=1, max_size=40))
@example([5_000_000] * 5 + [100_000, 300_000] * 10)
def test_window_of_any_intervals_has_exact_mean_and_deviation_of_the_latest(intervals_us: list[int]) -> None:
    """The running sums equal a fresh computation over the latest samples."""
    window = ArrivalWindow(expected=1e-6, samples_max=10)
    for interval in intervals_us:
        window.add(interval / 1e6)
    latest = [1e-6, *(interval / 1e6 for interval in intervals_us)][-10:]
    assert len(window) == len(latest)
    assert window.mean == pytest.approx(max(1e-6, mean(latest)), rel=1e-9)
    assert window.std == pytest.approx(max(1e-6, pstdev(latest)), rel=1e-6, abs=1e-6)
