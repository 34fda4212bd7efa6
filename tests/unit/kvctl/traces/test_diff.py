"""Comparing two sets: honest about chance, and about what explains a change."""

from __future__ import annotations

import random

import pytest

from kvctl.traces.diff import COUNT_MIN, Samples, Verdict, compare, figures_of, rank_test

PUT = ("put", "strong", True)


def test_rank_test_gives_what_the_tables_give() -> None:
    """Against values computed by SciPy's mannwhitneyu (asymptotic, with continuity), with and without ties."""
    assert rank_test(range(1, 9), range(11, 19)) == pytest.approx(0.000939, abs=1e-6)
    assert rank_test([1, 1, 1, 2, 2, 2, 3, 3], [2, 2, 3, 3, 3, 4, 4, 5, 6]) == pytest.approx(0.011592, abs=1e-6)
    assert rank_test([1, 2, 3], [1, 2, 3]) == 1
    assert rank_test([7] * 9, [7] * 9) == 1


def test_rank_test_of_equal_distributions_is_seldom_sure() -> None:
    """Of 400 comparisons of nothing, some 1 % are beyond 1 %: not many more, and not none of all."""
    chance = random.Random(1)

    def sample() -> list[float]:
        return [chance.lognormvariate(0, 1) for _ in range(30)]

    surprises = sum(rank_test(sample(), sample()) < 0.05 for _ in range(400))
    assert 5 <= surprises <= 35


def test_rank_test_is_not_moved_by_one_outlier() -> None:
    """A single request that hung changes the mean, and says nothing of the others."""
    values = [float(number) for number in range(40)]
    assert rank_test(values, [*values[:-1], 1e12]) > 0.9


def test_comparison_within_noise_says_so() -> None:
    """A median a tenth higher, by chance: no verdict, and no reason."""
    chance = random.Random(3)
    before, after = (Samples([1e6 * chance.lognormvariate(0, 1) for _ in range(20)]) for _ in range(2))
    (difference,) = compare({PUT: before}, {PUT: after})
    assert difference.whole.verdict is Verdict.NOISE
    assert difference.text.startswith("Put (strong): within noise, median ")
    assert "chance alone does that in" in difference.text


def test_comparison_of_too_few_requests_says_how_many_it_takes() -> None:
    """One side has seven."""
    before, after = Samples([1e6] * 7), Samples([9e6] * 100)
    (difference,) = compare({PUT: before}, {PUT: after})
    assert difference.whole.verdict is Verdict.TOO_FEW
    assert difference.text == (
        f"Put (strong): too few to compare (7 and 100 requests; at least {COUNT_MIN} each), median 1.0 ms → 9.0 ms."
    )


def test_comparison_tells_which_stages_explain_a_change() -> None:
    """By means, which sum: of four milliseconds more, three are the disk's; a new stage counts from zero."""
    before = Samples([2e6 + number for number in range(20)], {"fsync": [1e6] * 20, "apply": [1e6] * 20})
    after = Samples([6e6 + number for number in range(20)], {"fsync": [4e6] * 20, "apply": [1e6] * 20, "lock_wait": [1e6] * 20})
    (difference,) = compare({PUT: before}, {PUT: after})
    assert difference.whole.verdict is Verdict.SLOWER
    assert [(one.stage, round(one.share, 2)) for one in difference.stages] == [
        ("fsync", 0.75),
        ("lock_wait", 0.25),
        ("apply", 0),
    ]
    assert difference.text == (
        "Put (strong): slower, median 2.0 ms → 6.0 ms (+200%); "
        "of +4.0 ms in the mean: fsync +3.0 ms (75%), lock_wait +1.0 ms (25%)."
    )
    (back,) = compare({PUT: after}, {PUT: before})
    assert back.text == (
        "Put (strong): faster, median 6.0 ms → 2.0 ms (-67%); "
        "of -4.0 ms in the mean: fsync -3.0 ms (75%), lock_wait -1.0 ms (25%)."
    )


def test_comparison_takes_only_kinds_that_both_sides_have() -> None:
    """Clients' durations are not compared with nodes'; the most frequent kind comes first."""
    get, of_nodes = ("get", "strong", True), ("put", "strong", False)
    before = {PUT: Samples([1.0] * 9), get: Samples([1.0] * 20), of_nodes: Samples([1.0])}
    after = {PUT: Samples([1.0] * 9), get: Samples([1.0] * 20)}
    assert [difference.operation for difference in compare(before, after)] == ["get", "put"]


def test_figures_are_those_that_a_share_does_not_exceed() -> None:
    """Percentiles by nearest rank: values that were measured, never between two."""
    figures = figures_of([float(number) for number in range(100, 0, -1)])
    assert (figures.count, figures.mean, figures.p50, figures.p95, figures.p99) == (100, 50.5, 50, 95, 99)
    assert figures_of([3.0]).p99 == 3
